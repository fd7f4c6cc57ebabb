// The page: its buttons, keys and sentences. What they do is in talk.js, what is known in state.js.

import { samplesFromFile } from "./pcm.js";
import { NOT_CONNECTED } from "./realtime.js";
import { bindForm, listDevices, loadSettings, saveSettings } from "./settings.js";
import { Talk } from "./talk.js";
import { Transcript } from "./transcript.js";
import { Waveform } from "./waveform.js";

const STATUS = {
  closed: "Press the button and talk",
  connecting: "Connecting",
  waiting: "Looking for the server",
  ready: "Ready",
  listening: "Listening",
  hearing: "Listening to you",
  thinking: "Thinking",
  speaking: "Speaking",
};
const STATUS_PUSH = {
  closed: "Hold the button and talk",
  ready: "Hold the button and talk",
  listening: "Hold the button and talk",
};
const REFUSALS = {
  NotAllowedError: "The browser may not use the microphone. Allow it for this page, or type.",
  NotFoundError: "No microphone was found. Plug one in, or type.",
  OverconstrainedError: "The chosen microphone is gone. Choose another in the settings.",
  NotReadableError: "Another program holds the microphone.",
  SecurityError: "Browsers give the microphone only to https pages and to this machine's own.",
  EncodingError: "The browser cannot read this sound file.",
};

const part = (id) => document.getElementById(id);
const settings = loadSettings();
const talk = new Talk(settings, complain);
const transcript = new Transcript(part("transcript"));
const form = part("settings-form");

function complain(sentence) {
  part("trouble").textContent = sentence;
}

async function attempt(action) {
  complain("");
  try {
    await action();
  } catch (error) {
    if (error.name === NOT_CONNECTED) return;
    complain(REFUSALS[error.name] || `That did not work: ${error.message}`);
  }
}

function show() {
  const { state, pushToTalk } = talk;
  const { phase } = state;
  document.body.dataset.phase = phase;
  part("status").textContent = (pushToTalk && STATUS_PUSH[phase]) || STATUS[phase];
  part("model").textContent = state.model;
  part("interrupt").disabled = !["speaking", "thinking"].includes(phase);
  const on = pushToTalk ? talk.held : state.microphone;
  part("talk").setAttribute("aria-pressed", String(on));
  part("talk-label").textContent = pushToTalk ? "Hold" : on ? "Stop" : "Talk";
  transcript.show(state.messages);
}

async function press() {
  await attempt(() => (talk.pushToTalk ? talk.hold() : talk.toggle()));
  if (talk.microphone.open) await listDevices(form, settings);
  else talk.held = false;
  show();
}

function release() {
  if (talk.pushToTalk) attempt(() => talk.release());
}

function bindTalk() {
  const button = part("talk");
  button.addEventListener("pointerdown", (event) => {
    if (talk.pushToTalk) {
      button.setPointerCapture(event.pointerId);
      press();
    }
  });
  for (const name of ["pointerup", "pointercancel"]) button.addEventListener(name, release);
  button.addEventListener("click", () => talk.pushToTalk || press());
  part("interrupt").addEventListener("click", () => attempt(() => talk.interrupt()));
}

// Keys act where nothing else would take them.
function bindKeys() {
  const busy = ({ target }) =>
    part("settings").open || target.closest("input, textarea, select, button:not(#talk)");
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !part("settings").open) attempt(() => talk.interrupt());
    if (busy(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") {
      event.preventDefault();
      part("question").focus();
    } else if (event.key === " ") {
      event.preventDefault(); // also the button's own click
      if (!event.repeat) press();
    }
  });
  document.addEventListener("keyup", (event) => {
    if (event.key !== " " || busy(event)) return;
    event.preventDefault();
    release();
  });
  window.addEventListener("blur", release);
}

function bindQuestions() {
  part("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = part("question").value.trim();
    part("question").value = "";
    if (text) attempt(() => talk.ask(text));
  });
  part("example").addEventListener("click", () =>
    attempt(async () => {
      const answer = await fetch(new URL("./example.wav", import.meta.url));
      if (!answer.ok) throw new Error("the server does not have the example");
      await talk.askRecorded(await samplesFromFile(await answer.arrayBuffer()), "recorded example");
    }),
  );
  part("choose").addEventListener("click", () => part("file").click());
  part("file").addEventListener("change", () => {
    const [file] = part("file").files;
    part("file").value = "";
    if (!file) return;
    attempt(async () => {
      await talk.askRecorded(await samplesFromFile(await file.arrayBuffer()), file.name);
    });
  });
}

function bindSettings() {
  part("open-settings").addEventListener("click", () => {
    listDevices(form, settings);
    part("settings").showModal();
  });
  part("close-settings").addEventListener("click", () => part("settings").close());
  form.addEventListener("submit", (event) => event.preventDefault());
  bindForm(form, settings, (name) => attempt(() => applySetting(name)));
  part("volume").value = settings.volume;
  part("volume").addEventListener("input", ({ target }) => {
    settings.volume = Number(target.value);
    talk.speaker.setVolume(settings.volume);
    saveSettings(settings);
  });
}

async function applySetting(name) {
  if (name === "turnDetection" && talk.pushToTalk) talk.closeMicrophone();
  if (["microphone", "clean"].includes(name) && talk.microphone.open) await talk.openMicrophone();
  if (name === "apiKey") talk.realtime.close(); // the next question connects with the new key
  else talk.configure();
  show();
}

bindTalk();
bindKeys();
bindQuestions();
bindSettings();
new Waveform(part("waveform"), part("talk"), () => [
  talk.pushToTalk && !talk.held ? null : talk.microphone.analyser,
  talk.speaker.analyser,
]);
talk.state.addEventListener("change", show);
talk.speaker.setVolume(settings.volume);
talk.speaker.setBuffer(settings.bufferMs);
navigator.mediaDevices?.addEventListener("devicechange", () => listDevices(form, settings));
show();
