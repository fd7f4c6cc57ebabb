// Cuts the microphone into pieces of 100 ms of 24 kHz PCM16, whatever the context's rate.

const TARGET_HZ = 24000;
const PIECE_SAMPLES = 2400;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Int16Array(PIECE_SAMPLES);
    this.filled = 0;
    this.step = sampleRate / TARGET_HZ; // input samples for each output sample
    this.position = 0; // of the next output sample, in input samples after `last`
    this.last = 0;
    this.port.onmessage = () => {
      this.send();
      this.port.postMessage({ flushed: true });
    };
  }

  process(inputs) {
    const samples = inputs[0][0];
    if (!samples) return true;
    if (this.step === 1) samples.forEach((sample) => this.put(sample));
    else this.resample(samples);
    return true;
  }

  // Linear; the graph has a low-pass filter in front where the rates differ.
  resample(samples) {
    while (this.position < samples.length) {
      const whole = Math.floor(this.position);
      const before = whole === 0 ? this.last : samples[whole - 1];
      this.put(before + (this.position - whole) * (samples[whole] - before));
      this.position += this.step;
    }
    this.position -= samples.length;
    this.last = samples[samples.length - 1];
  }

  put(sample) {
    this.piece[this.filled] = Math.round(Math.max(-1, Math.min(1, sample)) * 32767);
    this.filled += 1;
    if (this.filled === PIECE_SAMPLES) this.send();
  }

  send() {
    if (this.filled === 0) return;
    const pcm = this.piece.slice(0, this.filled);
    this.filled = 0;
    this.port.postMessage({ pcm }, [pcm.buffer]);
  }
}

registerProcessor("capture", Capture);
