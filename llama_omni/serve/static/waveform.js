// Two live waveforms that flow out from the button: what you say to the left, the answer to the
// right. Loudness only: bars are read at a glance.

const BAR = 3; // CSS pixels
const GAP = 3;
const BARS_A_SECOND = 30;
const LOUDEST_RMS = 0.35;
const CLEAR = 17; // CSS pixels between the button and the first bar

export class Waveform {
  constructor(canvas, button, sources) {
    this.canvas = canvas;
    this.button = button; // in the middle, over the canvas
    this.sources = sources; // () => [analyser or null, analyser or null]
    this.levels = [[], []];
    this.buffer = new Float32Array(1024);
    this.peak = [0, 0]; // since the last bar
    this.lastBar = 0;
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    requestAnimationFrame((time) => this.frame(time));
  }

  frame(time) {
    this.sources().forEach((node, side) => {
      this.peak[side] = Math.max(this.peak[side], node ? this.level(node) : 0);
    });
    const pause = this.still.matches ? 250 : 1000 / BARS_A_SECOND;
    if (time - this.lastBar >= pause) {
      this.lastBar = time;
      this.levels.forEach((bars, side) => bars.unshift(this.peak[side]));
      this.peak = [0, 0];
      this.draw();
    }
    requestAnimationFrame((next) => this.frame(next));
  }

  level(node) {
    node.getFloatTimeDomainData(this.buffer);
    const power = this.buffer.reduce((sum, sample) => sum + sample * sample, 0);
    return Math.min(1, Math.sqrt(power / this.buffer.length) / LOUDEST_RMS) ** 0.6;
  }

  draw() {
    const { canvas } = this;
    const { clientWidth: width, clientHeight: height } = canvas;
    const scale = devicePixelRatio;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    const style = getComputedStyle(canvas);
    const first = this.button.offsetWidth / 2 + CLEAR;
    const count = Math.max(1, Math.floor((width / 2 - first) / (BAR + GAP)));
    this.levels.forEach((bars, side) => {
      bars.length = Math.min(bars.length, count);
      pen.fillStyle = side === 0 ? style.color : style.borderTopColor; // resolved by the browser
      for (let place = 0; place < count; place += 1) {
        const tall = Math.max(BAR, (bars[place] || 0) * height);
        const away = first + place * (BAR + GAP);
        pen.globalAlpha = (bars[place] ? 1 : 0.35) * (1 - 0.85 * (place / count));
        pen.beginPath();
        const left = side === 0 ? width / 2 - away - BAR : width / 2 + away;
        pen.roundRect(left, (height - tall) / 2, BAR, tall, BAR / 2);
        pen.fill();
      }
    });
  }
}
