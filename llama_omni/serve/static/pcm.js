// Sound as the protocol carries it: mono, 24 kHz, 16 bit, little-endian, base64.

export const SAMPLE_RATE_HZ = 24000;
export const PIECE_BYTES = 4800; // 100 ms

const CHUNK_BYTES = 0x8000; // String.fromCharCode takes only so many arguments

export function encodeBase64(bytes) {
  let text = "";
  for (let start = 0; start < bytes.length; start += CHUNK_BYTES) {
    text += String.fromCharCode(...bytes.subarray(start, start + CHUNK_BYTES));
  }
  return btoa(text);
}

export function decodeBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

export function pcmFromSamples(samples) {
  const view = new DataView(new ArrayBuffer(2 * samples.length));
  samples.forEach((sample, place) => {
    const held = Math.max(-1, Math.min(1, sample));
    view.setInt16(2 * place, Math.round(held * 32767), true);
  });
  return new Uint8Array(view.buffer);
}

export function samplesFromPcm(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const samples = new Float32Array(bytes.byteLength >> 1);
  for (let place = 0; place < samples.length; place += 1) {
    samples[place] = view.getInt16(2 * place, true) / 32768;
  }
  return samples;
}

// Read a recording of any kind that the browser can decode, as one channel at 24 kHz.
export async function samplesFromFile(encoded) {
  const decoder = new OfflineAudioContext(1, 1, SAMPLE_RATE_HZ);
  const sound = await decoder.decodeAudioData(encoded); // resampled to the decoder's rate
  const mono = new Float32Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel += 1) {
    const samples = sound.getChannelData(channel);
    for (let place = 0; place < mono.length; place += 1) {
      mono[place] += samples[place] / sound.numberOfChannels;
    }
  }
  return mono;
}
