// What the user has chosen: kept in the browser (the API key only until the tab is closed), bound
// to the fields of a form by their names, and told to the server as a session's fields.

const STORE = "llama-omni-settings";
const KEY_STORE = "llama-omni-key";

export const DEFAULTS = {
  turnDetection: "server_vad", // server_vad, semantic_vad, push
  threshold: 0.5,
  silenceMs: 500,
  eagerness: "auto",
  interruptByVoice: true,
  instructions: "",
  modality: "audio", // audio, text
  microphone: "",
  speaker: "",
  clean: true, // echo cancellation, noise suppression, gain control
  volume: 1,
  bufferMs: 100, // sound that must wait before an answer starts
  apiKey: "",
};

export function loadSettings() {
  let kept = {};
  try {
    kept = JSON.parse(localStorage.getItem(STORE)) || {};
  } catch {
    // kept by another version, or no storage: begin with the defaults
  }
  const known = Object.entries(kept).filter(([name]) => name in DEFAULTS);
  const apiKey = sessionStorage.getItem(KEY_STORE) || "";
  return { ...DEFAULTS, ...Object.fromEntries(known), apiKey };
}

export function saveSettings({ apiKey, ...rest }) {
  sessionStorage.setItem(KEY_STORE, apiKey);
  localStorage.setItem(STORE, JSON.stringify(rest));
}

export function sessionFields(settings) {
  return {
    type: "realtime",
    output_modalities: [settings.modality],
    instructions: settings.instructions,
    audio: {
      input: {
        format: { type: "audio/pcm", rate: 24000 },
        turn_detection: turnDetection(settings),
        transcription: { model: "whisper-1" }, // the server's own recogniser, whatever the name
      },
      output: { format: { type: "audio/pcm", rate: 24000 } },
    },
  };
}

function turnDetection({ turnDetection: type, threshold, silenceMs, eagerness, ...rest }) {
  const replies = { create_response: true, interrupt_response: rest.interruptByVoice };
  if (type === "push") return null;
  if (type === "semantic_vad") return { type, eagerness, ...replies };
  return { type, threshold, silence_duration_ms: silenceMs, ...replies };
}

// Show the settings in the form, and call `changed` with each change.
export function bindForm(form, settings, changed) {
  const fields = [...form.elements].filter((field) => field.name in DEFAULTS);
  for (const field of fields) {
    const show = () => {
      const output = form.querySelector(`output[for="${field.id}"]`);
      if (output) output.value = `${field.value}${output.dataset.unit || ""}`;
    };
    if (field.type === "checkbox") field.checked = settings[field.name];
    else if (field.type === "radio") field.checked = settings[field.name] === field.value;
    else field.value = settings[field.name];
    show();
    field.addEventListener("input", show);
    field.addEventListener("change", () => {
      settings[field.name] = read(field);
      saveSettings(settings);
      form.dataset.turns = settings.turnDetection;
      changed(field.name);
    });
  }
  form.dataset.turns = settings.turnDetection;
}

function read(field) {
  if (field.type === "checkbox") return field.checked;
  return field.type === "range" ? Number(field.value) : field.value;
}

// Fill the lists of microphones and loudspeakers; names come only after permission.
export async function listDevices(form, settings) {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) || [];
  for (const [name, kind] of [["microphone", "audioinput"], ["speaker", "audiooutput"]]) {
    const list = form.elements[name];
    const named = devices.filter((one) => one.kind === kind && one.deviceId !== "default");
    const options = named
      .filter((one) => one.deviceId)
      .map((one, place) => new Option(one.label || `Device ${place + 1}`, one.deviceId));
    list.replaceChildren(new Option("The system's own", ""), ...options);
    list.value = settings[name];
    if (list.selectedIndex < 0) list.value = "";
  }
}
