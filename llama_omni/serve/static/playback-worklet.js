// Plays an answer as it comes, and tells how much of it was played.
//
// Messages in: {item, samples} a piece; {ended: item} no more pieces; {flush: true} be silent now;
// {bufferMs} how much must wait before an answer starts.
// Messages out: {started: item}, {played: item, samples}, {finished: item, samples}, {gap: item},
// {flushed: item or null, samples}.

const REPORT_BLOCKS = 8; // of 128 samples: 43 ms at 24 kHz
const FADE_SAMPLES = 144; // 6 ms: a cut without a click

class Playback extends AudioWorkletProcessor {
  constructor() {
    super();
    this.bufferSamples = 0.1 * sampleRate;
    this.fade = new Float32Array(0);
    this.blocks = 0;
    this.forget();
    this.port.onmessage = ({ data }) => this.take(data);
  }

  forget() {
    this.pieces = [];
    this.offset = 0; // into the first piece
    this.waiting = 0; // samples that wait
    this.item = null;
    this.played = 0;
    this.ended = null;
    this.running = false;
  }

  take(message) {
    if (message.bufferMs !== undefined) {
      this.bufferSamples = (message.bufferMs / 1000) * sampleRate;
    } else if (message.flush) {
      const { item, played } = this;
      this.fade = this.running ? this.pull(FADE_SAMPLES) : new Float32Array(0);
      this.fade.forEach((_, place) => (this.fade[place] *= 1 - place / FADE_SAMPLES));
      this.forget();
      this.port.postMessage({ flushed: item, samples: played });
    } else if (message.ended) {
      this.ended = message.ended;
    } else {
      if (message.item !== this.item) {
        this.forget();
        this.item = message.item;
      }
      this.pieces.push(message.samples);
      this.waiting += message.samples.length;
    }
  }

  process(_, outputs) {
    const output = outputs[0][0];
    if (this.fade.length > 0) {
      output.set(this.fade.subarray(0, output.length));
      this.fade = this.fade.slice(output.length);
      return true;
    }
    if (this.item === null) return true;
    const complete = this.ended === this.item;
    if (!this.running && (complete || this.waiting >= this.bufferSamples)) this.start();
    if (!this.running) return true;
    const samples = this.pull(output.length);
    output.set(samples);
    this.played += samples.length;
    if (samples.length < output.length) this.runDry(complete);
    else if (++this.blocks % REPORT_BLOCKS === 0) this.tell("played");
    return true;
  }

  start() {
    this.running = true;
    if (this.played === 0) this.port.postMessage({ started: this.item });
  }

  runDry(complete) {
    if (complete) {
      this.tell("finished");
      this.forget();
    } else {
      this.running = false; // wait for the buffer again: one gap, not many
      this.port.postMessage({ gap: this.item });
    }
  }

  tell(what) {
    this.port.postMessage({ [what]: this.item, samples: this.played });
  }

  pull(count) {
    const samples = new Float32Array(Math.min(count, this.waiting));
    for (let filled = 0; filled < samples.length; ) {
      const piece = this.pieces[0].subarray(this.offset, this.offset + samples.length - filled);
      samples.set(piece, filled);
      filled += piece.length;
      this.offset += piece.length;
      if (this.offset === this.pieces[0].length) {
        this.pieces.shift();
        this.offset = 0;
      }
    }
    this.waiting -= samples.length;
    return samples;
  }
}

registerProcessor("playback", Playback);
