// What a person can do: talk, ask, interrupt. Ties the connection, the sound and the state.

import { Microphone, Speaker } from "./audio.js";
import { decodeBase64, encodeBase64, PIECE_BYTES, pcmFromSamples } from "./pcm.js";
import { Realtime } from "./realtime.js";
import { sessionFields } from "./settings.js";
import { State } from "./state.js";

export class Talk {
  constructor(settings, complain) {
    this.settings = settings;
    this.complain = complain; // shows a sentence
    this.state = new State();
    this.speaker = new Speaker();
    this.microphone = new Microphone((pcm) => this.sendSound(pcm));
    this.realtime = new Realtime();
    this.silenced = new Set(); // answers that were interrupted: what still comes is stale
    this.held = false;
    this.next = false; // a request waits for the end of the one before
    this.asked = ""; // event_id of a request that the server has not taken up yet
    this.questions = 0;
    this.requests = 0;
    this.realtime.addEventListener("server", ({ detail }) => this.take(detail));
    this.realtime.addEventListener("connection", ({ detail }) => this.followConnection(detail));
    this.speaker.addEventListener("playback", ({ detail }) => this.state.hearPlayback(detail));
  }

  get pushToTalk() {
    return this.settings.turnDetection === "push";
  }

  async open() {
    await this.speaker.open(); // first: it needs the gesture
    await this.realtime.connect(this.settings.apiKey);
  }

  configure() {
    this.speaker.setVolume(this.settings.volume);
    this.speaker.setBuffer(this.settings.bufferMs);
    this.speaker.setSink(this.settings.speaker);
    this.realtime.send("session.update", { session: sessionFields(this.settings) });
  }

  async openMicrophone() {
    const { microphone, clean } = this.settings;
    await this.microphone.start(microphone, clean);
    this.state.change({ microphone: true });
  }

  closeMicrophone() {
    this.microphone.stop();
    this.held = false;
    if (this.state.hearing) this.realtime.send("input_audio_buffer.clear");
    this.state.change({ microphone: false, hearing: false });
  }

  async toggle() {
    if (this.microphone.open) this.closeMicrophone();
    else await Promise.all([this.openMicrophone(), this.open()]);
  }

  async hold() {
    if (this.held) return;
    this.held = true;
    if (!this.microphone.open) await Promise.all([this.openMicrophone(), this.open()]);
    if (!this.held) return; // released while the browser asked for permission
    await this.interrupt();
    this.realtime.send("input_audio_buffer.clear");
    this.heldBytes = 0;
    this.state.change({ hearing: true });
  }

  async release() {
    if (!this.held) return;
    await this.microphone.flush();
    this.held = false;
    if (!this.state.hearing) return;
    this.state.change({ hearing: false });
    if (this.heldBytes < PIECE_BYTES) {
      this.complain("That was too short. Hold the button while you talk.");
      return;
    }
    this.realtime.send("input_audio_buffer.commit");
    this.request();
  }

  async ask(text) {
    await this.put({ type: "input_text", text });
  }

  // Ask with sound that was recorded before, without a microphone.
  async askRecorded(samples, name) {
    const audio = encodeBase64(pcmFromSamples(samples));
    await this.put({ type: "input_audio", audio }, name);
  }

  async put(part, note = "") {
    await this.open();
    await this.interrupt();
    this.questions += 1;
    const id = `question_${Date.now().toString(36)}_${this.questions}`;
    const item = { id, type: "message", role: "user", content: [part] };
    Object.assign(this.state.message(id, "user"), { note, text: part.text || "" });
    this.realtime.send("conversation.item.create", { item });
    this.request();
  }

  // There is one response at a time: the one before is cancelled, and ends first.
  request() {
    this.state.endTurn();
    if (this.state.response !== null || this.asked) this.next = true;
    else {
      this.next = false;
      this.asked = `ask_${++this.requests}`;
      this.realtime.send("response.create", { event_id: this.asked });
    }
  }

  begin({ id }) {
    this.asked = "";
    if (this.next) this.realtime.send("response.cancel", { response_id: id });
  }

  // Stop the answer, and tell the server how much of it was heard.
  async interrupt({ cancel = true } = {}) {
    const { answer, response } = this.state;
    if (cancel && response !== null) this.realtime.send("response.cancel", { response_id: response });
    if (response === null && this.speaker.item === null) return;
    if (answer !== null) this.silenced.add(answer);
    this.state.change({ playing: false });
    const heard = await this.speaker.flush();
    if (heard === null) return;
    const { item: item_id, heardMs: audio_end_ms } = heard;
    this.realtime.send("conversation.item.truncate", { item_id, content_index: 0, audio_end_ms });
  }

  sendSound(pcm) {
    if (this.pushToTalk && !this.held) return;
    this.heldBytes += pcm.length;
    this.realtime.send("input_audio_buffer.append", { audio: encodeBase64(pcm) });
  }

  take(event) {
    this.state.take(event);
    const { item_id } = event;
    if (event.type === "session.created") this.configure();
    else if (event.type === "response.output_audio.delta") {
      if (!this.silenced.has(item_id)) this.speaker.play(item_id, decodeBase64(event.delta));
    } else if (event.type === "response.output_audio.done") this.speaker.end(item_id);
    else if (event.type === "input_audio_buffer.speech_started") {
      // The server cancels the response itself; only the page knows what was heard.
      if (this.settings.interruptByVoice) this.interrupt({ cancel: false });
    } else if (event.type === "conversation.item.truncated") {
      this.realtime.send("conversation.item.retrieve", { item_id }); // with the heard words only
    } else if (event.type === "response.created") this.begin(event.response);
    else if (event.type === "response.done") this.finish(event.response);
    else if (event.type === "error") this.fail(event.error);
  }

  finish({ status, status_details }) {
    if (status === "failed") {
      this.complain(status_details?.error?.message || "The answer failed. Please ask again.");
    }
    if (this.next) this.request();
  }

  fail(error) {
    if (error.code === "response_cancel_not_active") return; // it ended on its own just before
    if (error.event_id && error.event_id === this.asked) {
      this.asked = "";
      if (this.state.response === null) this.state.change({ turnEndedAt: null });
    }
    this.complain(error.message);
  }

  followConnection({ status, message, wasOpen, waitMs }) {
    if (status !== "open" && this.state.connection === "open") {
      this.speaker.flush();
      this.state.reset();
      this.next = false;
      this.asked = "";
      this.lost = wasOpen;
    }
    this.state.change({ connection: status });
    if (message) this.complain(message);
    if (status === "closed" && this.microphone.open) this.closeMicrophone();
    if (status === "waiting") {
      const seconds = (waitMs / 1000).toFixed(waitMs < 1000 ? 1 : 0);
      this.complain(`The server cannot be reached. Trying again in ${seconds} s.`);
      this.unreachable = true;
    }
    if (status === "open") {
      if (this.unreachable) this.complain(""); // but not what was said of a microphone
      this.unreachable = false;
      if (this.lost) this.state.say("Connected again. The conversation begins anew.");
      this.lost = false;
    }
  }
}
