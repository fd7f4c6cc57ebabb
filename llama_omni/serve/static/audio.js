// The microphone and the loudspeaker: two worklets, one context where the browser allows it.

import { SAMPLE_RATE_HZ, samplesFromPcm } from "./pcm.js";

const LOW_PASS_HZ = 11000; // below half of 24 kHz
const worklet = (name) => new URL(`./${name}-worklet.js`, import.meta.url);

function analyser(context) {
  const node = context.createAnalyser();
  node.fftSize = 1024;
  node.smoothingTimeConstant = 0;
  return node;
}

export class Speaker extends EventTarget {
  constructor() {
    super();
    this.item = null; // the answer that waits or plays
    this.playedSamples = 0;
    this.volume = 1;
    this.bufferMs = 100;
    this.sink = "";
  }

  // Browsers start sound only after a gesture: call it from a click or a key.
  async open() {
    this.opening ??= this.build();
    await this.opening;
    if (this.context.state === "suspended") await this.context.resume();
  }

  async build() {
    this.context = new AudioContext({ sampleRate: SAMPLE_RATE_HZ, latencyHint: "interactive" });
    await this.context.audioWorklet.addModule(worklet("playback"));
    this.node = new AudioWorkletNode(this.context, "playback", { outputChannelCount: [1] });
    this.gain = this.context.createGain();
    this.analyser = analyser(this.context);
    this.node.connect(this.analyser).connect(this.gain).connect(this.context.destination);
    this.node.port.onmessage = ({ data }) => this.hear(data);
    this.setVolume(this.volume);
    this.setBuffer(this.bufferMs);
    await this.setSink(this.sink);
  }

  setVolume(volume) {
    this.volume = volume;
    if (this.gain) this.gain.gain.value = volume;
  }

  setBuffer(bufferMs) {
    this.bufferMs = bufferMs;
    this.node?.port.postMessage({ bufferMs });
  }

  async setSink(device) {
    this.sink = device;
    if (this.context?.setSinkId && device !== (this.context.sinkId || "")) {
      await this.context.setSinkId(device).catch(() => this.context.setSinkId(""));
    }
  }

  play(item, pcm) {
    if (this.item !== item) this.playedSamples = 0;
    this.item = item;
    const samples = samplesFromPcm(pcm);
    this.node?.port.postMessage({ item, samples }, [samples.buffer]);
  }

  end(item) {
    this.node?.port.postMessage({ ended: item });
  }

  // Fall silent; give what was heard: {item, heardMs}, or null where nothing was to be heard.
  flush() {
    if (this.item === null) return Promise.resolve(null);
    const { item } = this;
    this.item = null;
    if (!this.node) return Promise.resolve({ item, heardMs: 0 });
    const flushed = new Promise((resolve) => (this.resolveFlush = resolve));
    this.node.port.postMessage({ flush: true });
    return flushed.then((samples) => {
      const playedMs = (1000 * samples) / SAMPLE_RATE_HZ;
      const latencyMs = 1000 * (this.context.outputLatency || 0); // on its way to the ear
      return { item, heardMs: Math.max(0, Math.floor(playedMs - latencyMs)) };
    });
  }

  hear(message) {
    if (message.flushed !== undefined) this.resolveFlush?.(message.samples);
    if (message.samples !== undefined) this.playedSamples = message.samples;
    if (message.finished === this.item) this.item = null;
    this.dispatchEvent(new CustomEvent("playback", { detail: message }));
  }
}

export class Microphone {
  constructor(onPiece) {
    this.onPiece = onPiece; // takes a Uint8Array of PCM16
    this.analyser = null;
  }

  get open() {
    return Boolean(this.stream);
  }

  async start(device, clean) {
    this.stop();
    if (!navigator.mediaDevices) throw new DOMException("no devices", "SecurityError");
    const audio = { echoCancellation: clean, noiseSuppression: clean, autoGainControl: clean };
    if (device) audio.deviceId = { exact: device };
    this.stream = await navigator.mediaDevices.getUserMedia({ audio });
    this.context = new AudioContext({ sampleRate: SAMPLE_RATE_HZ });
    let source;
    try {
      source = this.context.createMediaStreamSource(this.stream);
    } catch {
      this.context.close(); // some browsers refuse any rate but the microphone's own
      this.context = new AudioContext();
      source = this.context.createMediaStreamSource(this.stream);
    }
    await this.context.audioWorklet.addModule(worklet("capture"));
    this.node = new AudioWorkletNode(this.context, "capture", {
      channelCount: 1,
      channelCountMode: "explicit",
      numberOfOutputs: 0,
    });
    this.analyser = analyser(this.context);
    source.connect(this.analyser);
    if (this.context.sampleRate === SAMPLE_RATE_HZ) source.connect(this.node);
    else {
      const filter = new BiquadFilterNode(this.context, { frequency: LOW_PASS_HZ });
      source.connect(filter).connect(this.node);
    }
    this.node.port.onmessage = ({ data }) => {
      if (data.pcm) this.onPiece(new Uint8Array(data.pcm.buffer));
      if (data.flushed) this.resolveFlush?.();
    };
  }

  // Hand out the piece that is not full.
  flush() {
    if (!this.node) return Promise.resolve();
    const flushed = new Promise((resolve) => (this.resolveFlush = resolve));
    this.node.port.postMessage("flush");
    return flushed;
  }

  stop() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.context?.close();
    this.stream = this.context = this.node = this.analyser = null;
  }
}
