// What is known of the conversation, from the server's events and the loudspeaker. No page here.

export class State extends EventTarget {
  constructor(now = () => performance.now()) {
    super();
    this.now = now;
    this.connection = "closed";
    this.microphone = false;
    this.model = "";
    this.messages = []; // {id, role, text, status, note, firstSoundMs, heard}
    this.reset();
  }

  // A new session knows nothing of the old one's turns.
  reset() {
    this.hearing = false;
    this.response = null;
    this.answer = null; // item of the latest answer
    this.playing = false;
    this.turnEndedAt = null;
  }

  // One word for what is going on; the page's colours and its status line hang on it.
  get phase() {
    if (this.connection !== "open") return this.connection;
    if (this.hearing) return "hearing";
    if (this.playing) return "speaking";
    if (this.response || this.turnEndedAt !== null) return "thinking";
    return this.microphone ? "listening" : "ready";
  }

  change(fields = {}) {
    Object.assign(this, fields);
    this.dispatchEvent(new Event("change"));
  }

  endTurn() {
    this.change({ hearing: false, turnEndedAt: this.now() });
  }

  message(id, role) {
    let found = this.messages.find((one) => one.id === id);
    if (!found) {
      found = { id, role, text: "", status: "begun", note: "" };
      this.messages.push(found);
    }
    return found;
  }

  say(text) {
    this.messages.push({ id: `line-${this.messages.length}`, role: "line", text, status: "done" });
    this.change();
  }

  hearPlayback({ started, finished }) {
    if (started) {
      const message = this.message(started, "assistant");
      if (this.turnEndedAt !== null) message.firstSoundMs = this.now() - this.turnEndedAt;
      this.change({ playing: true, turnEndedAt: null });
    }
    if (finished && finished === this.answer) this.change({ playing: false });
  }

  take(event) {
    READERS[event.type]?.(this, event);
    this.change();
  }
}

const READERS = {
  "session.created": (state, { session }) => {
    state.reset();
    state.model = session.model || "";
  },
  "input_audio_buffer.speech_started": (state, { item_id }) => {
    state.hearing = true;
    state.turnEndedAt = null;
    state.message(item_id, "user");
  },
  "input_audio_buffer.speech_stopped": (state) => state.endTurn(),
  "input_audio_buffer.timeout_triggered": (state) => state.endTurn(),
  "input_audio_buffer.committed": (state, { item_id }) => {
    state.message(item_id, "user").status = "said";
  },
  "conversation.item.added": readItem,
  "conversation.item.done": readItem,
  "conversation.item.deleted": (state, { item_id }) => {
    const found = state.messages.find((one) => one.id === item_id);
    if (found) found.note = "forgotten: the conversation is full";
  },
  "conversation.item.retrieved": (state, { item }) => {
    if (item.role !== "assistant") return;
    const message = state.message(item.id, "assistant");
    message.heard = textOf(item).length;
    message.note = "interrupted";
  },
  "conversation.item.input_audio_transcription.delta": (state, { item_id, delta }) => {
    state.message(item_id, "user").text += delta || "";
  },
  "conversation.item.input_audio_transcription.completed": (state, { item_id, transcript }) => {
    Object.assign(state.message(item_id, "user"), { text: transcript.trim(), status: "done" });
  },
  "conversation.item.input_audio_transcription.failed": (state, { item_id }) => {
    state.message(item_id, "user").status = "done";
  },
  "response.created": (state, { response }) => {
    state.response = response.id;
    state.turnEndedAt ??= state.now();
  },
  "response.output_item.added": (state, { item }) => {
    if (item.type !== "message") return;
    state.answer = item.id;
    state.message(item.id, "assistant");
  },
  "response.output_audio_transcript.delta": readWords,
  "response.output_text.delta": (state, event) => {
    const message = readWords(state, event);
    if (message.firstSoundMs === undefined && state.turnEndedAt !== null) {
      message.firstWordMs ??= state.now() - state.turnEndedAt;
    }
  },
  "response.done": (state, { response }) => {
    state.response = null;
    const message = state.messages.find((one) => one.id === state.answer);
    const heardSound = response.output?.some((item) => item.content?.[0]?.type === "output_audio");
    if (response.status !== "completed" || !heardSound) state.turnEndedAt = null;
    if (!message || !response.output?.some((item) => item.id === message.id)) return;
    message.status = response.status;
    if (response.status === "cancelled") message.note ||= "interrupted";
    if (response.status === "incomplete") message.note ||= "stopped at its longest";
    if (response.status === "failed") message.note ||= "failed";
  },
};

function readWords(state, { item_id, delta }) {
  const message = state.message(item_id, "assistant");
  message.text += delta;
  return message;
}

function readItem(state, { item }) {
  if (item.type !== "message" || item.role !== "user") return;
  const message = state.message(item.id, "user");
  message.text ||= textOf(item);
  message.status = "said";
}

function textOf(item) {
  return (item.content || []).map((part) => part.text || part.transcript || "").join("");
}
