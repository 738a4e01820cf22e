// The page's side of `adjax live --web`; docs/live.md describes the messages.
"use strict";

const HEADER_BYTES = 8; // uint32 settings, uint32 index
const REPLY_BYTES = 16; // both, float32 milliseconds of waiting, float32 milliseconds of computation
const KEPT = 400; // durations behind a percentile
const RESEND_MS = 150; // changes are collected so long

const byId = (id) => document.getElementById(id);
const show = (id, value) => {
  byId(id).textContent = value;
};
const decimals = (value, digits = 1) => (Number.isFinite(value) ? value.toFixed(digits) : "–");

let socket = null;
let models = [];
let audio = null; // what runs: {context, stream, node, number of its start, first and latest settings}
let index = 0;
let starts = 0; // sent on this connection; what comes for an earlier one than the audio's is ignored
let sentAt = new Map();
let durations = {};
let statistics = null;
let levels = null;
let changeTimer = 0;

function say(text, error = false) {
  show("status", text);
  byId("status").classList.toggle("error", error);
}

function model() {
  return models.find((row) => row.name === byId("model").value);
}

function fill(select, rows, chosen) {
  select.replaceChildren(...rows.map(([value, text]) => new Option(text, value, false, value === chosen)));
}

function fillSettings(chunkFrames, codebooks) {
  const row = model();
  const near = row.chunk_frames.includes(chunkFrames) ? chunkFrames : row.chunk_frames[0];
  const hopMs = (1000 * row.hop_samples) / row.sample_rate_hz;
  fill(byId("chunk"), row.chunk_frames.map((n) => [n, `${+(n * hopMs).toFixed(2)} ms`]), near);
  const numbers = Array.from({ length: row.codebooks }, (_, i) => i + 1);
  const rate = (n) => `${n} (${decimals((row.kbps * n) / row.codebooks)} kbps)`;
  fill(byId("codebooks"), numbers.map((n) => [n, rate(n)]), Math.min(codebooks, row.codebooks));
}

function enable(on) {
  for (const id of ["start", "model", "chunk", "codebooks", "bypass"]) byId(id).disabled = !on;
}

function wanted() {
  return {
    chunk_frames: Number(byId("chunk").value),
    codebooks: Number(byId("codebooks").value),
    bypass: byId("bypass").checked,
  };
}

function connect() {
  say("Connecting …");
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}/audio`);
  socket.binaryType = "arraybuffer";
  starts = 0;
  socket.onmessage = ({ data }) => (typeof data === "string" ? control(JSON.parse(data)) : reply(data));
  socket.onclose = ({ reason }) => {
    endAudio();
    socket = null;
    enable(false);
    byId("start").textContent = "Reconnect";
    byId("start").disabled = false;
    say(reason ? `Disconnected: ${reason}.` : "Disconnected. Does `adjax live --web` still run?", true);
  };
}

function send(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function control(message) {
  if (message.type === "hello") {
    models = message.models;
    fill(byId("model"), models.map((row) => [row.name, row.name]), message.chosen.model);
    fillSettings(message.chosen.chunk_frames, message.chosen.codebooks);
    byId("start").textContent = "Start";
    enable(true);
    say("Ready.");
  } else if (message.type === "preparing" && audio) {
    say(audio.settings ? "Preparing the change …" : "Preparing the model …");
  } else if (message.type === "ready" && audio && message.stream === audio.number) {
    audio.first ??= message.settings;
    audio.settings = message;
    durations = {};
    statistics = null;
    audio.node.port.postMessage({ type: "capture", settings: message.settings, samples: message.chunk_samples });
    const rate = message.sample_rate_hz;
    show("kbps", decimals(message.kbps));
    show("rate", `, audio at ${rate / 1000} kHz`);
    show("chunk-ms", decimals((1000 * message.chunk_samples) / rate));
    show("algorithmic", decimals((1000 * message.delay_samples) / rate));
    say(message.bypass ? "Running: you hear the original." : "Running: you hear the codec.");
  } else if (message.type === "refused" && audio) {
    endAudio();
    send({ type: "stop" });
    say(`Refused: ${message.reason}`, true);
  } else if (message.type === "statistics") {
    statistics = message;
  }
}

function reply(data) {
  const view = new DataView(data);
  if (!audio || !audio.first || view.getUint32(0, true) < audio.first) return;
  const sent = sentAt.get(view.getUint32(4, true));
  sentAt.delete(view.getUint32(4, true));
  if (sent !== undefined) {
    const server = view.getFloat32(8, true) + view.getFloat32(12, true);
    add("network", Math.max(0, performance.now() - sent - server));
  }
  const samples = new Float32Array(data.slice(REPLY_BYTES));
  audio.node.port.postMessage({ type: "play", samples }, [samples.buffer]);
}

function add(name, value) {
  const values = (durations[name] ??= []);
  values.push(value);
  if (values.length > KEPT) values.shift();
}

function percentiles(name) {
  const sorted = [...(durations[name] ?? [])].sort((a, b) => a - b);
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
  return sorted.length ? { p50: at(0.5), p95: at(0.95) } : { p50: NaN, p95: NaN };
}

function fromNode(data) {
  if (data.type === "chunk" && socket && socket.readyState === WebSocket.OPEN) {
    const message = new ArrayBuffer(HEADER_BYTES + 4 * data.samples.length);
    const view = new DataView(message);
    view.setUint32(0, data.settings, true);
    view.setUint32(4, index, true);
    new Float32Array(message, HEADER_BYTES).set(data.samples);
    sentAt.set(index, performance.now());
    sentAt.delete(index - KEPT); // of chunks that were dropped
    index = (index + 1) >>> 0;
    socket.send(message);
  } else if (data.type === "held") {
    add("held", (1000 * data.samples) / audio.context.sampleRate);
  } else if (data.type === "report") {
    levels = data;
  }
}

async function startAudio(mine) {
  const row = model();
  if (!navigator.mediaDevices || !window.AudioWorkletNode) {
    throw new Error("the browser gives the microphone only to pages from https or localhost");
  }
  const context = new AudioContext({ sampleRate: row.sample_rate_hz, latencyHint: "interactive" });
  mine.context = context;
  await context.audioWorklet.addModule("worklet.js");
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: {
      channelCount: 1,
      sampleRate: row.sample_rate_hz,
      echoCancellation: false,
      noiseSuppression: false,
      autoGainControl: false,
    },
  });
  if (audio !== mine) {
    stream.getTracks().forEach((track) => track.stop()); // stopped while the browser asked for the microphone
    return;
  }
  mine.stream = stream;
  let source;
  try {
    source = context.createMediaStreamSource(stream);
  } catch {
    const rate = row.sample_rate_hz;
    throw new Error(`this browser cannot resample the microphone; set the device to ${rate} Hz, or use another browser`);
  }
  mine.node = new AudioWorkletNode(context, "codec-node", { channelCount: 1, channelCountMode: "explicit" });
  mine.node.port.onmessage = ({ data }) => audio === mine && fromNode(data);
  mine.node.onprocessorerror = () => fail(new Error("the audio thread failed"));
  source.connect(mine.node).connect(context.destination);
  stream.getTracks().forEach((track) => {
    track.onended = () => fail(new Error("the microphone was unplugged or taken away"));
  });
  await context.resume();
  if (audio !== mine) return;
  setLead();
  levels = null;
  sentAt = new Map();
  starts += 1;
  mine.number = starts;
  send({ type: "start", model: row.name, ...wanted() });
}

function endAudio() {
  if (!audio) return;
  const { context, stream, node } = audio;
  audio = null;
  if (node) node.port.postMessage({ type: "end" });
  if (stream) stream.getTracks().forEach((track) => ((track.onended = null), track.stop()));
  if (context) context.close();
  byId("start").textContent = "Start";
  for (const id of ["level-in", "level-out"]) {
    byId(id).value = -60;
    show(`${id}-text`, "–");
  }
}

function fail(error) {
  const text = error.name === "NotAllowedError" ? "the browser was not allowed to use the microphone" : error.message;
  stop();
  say(`No audio: ${text}.`, true);
}

async function start() {
  byId("start").textContent = "Stop";
  say("Asking for the microphone …");
  const mine = (audio = { context: null, stream: null, node: null, number: null, first: null, settings: null });
  try {
    await startAudio(mine);
  } catch (error) {
    if (audio === mine) fail(error);
  }
}

function stop() {
  const started = audio && audio.node;
  endAudio();
  if (started) send({ type: "stop" });
  say("Stopped.");
}

function setLead() {
  if (audio && audio.node) audio.node.port.postMessage({ type: "lead", seconds: Number(byId("lead").value) / 1000 });
}

function change() {
  clearTimeout(changeTimer);
  changeTimer = setTimeout(() => {
    if (audio && audio.settings) send({ type: "change", ...wanted() });
  }, RESEND_MS);
}

function showLevel(id, peak) {
  const db = 20 * Math.log10(Math.max(peak, 1e-6));
  byId(id).value = Math.max(-60, Math.min(0, db));
  show(`${id}-text`, peak > 1e-6 ? `${db.toFixed(0)} dBFS` : "silent");
}

function display() {
  if (!audio || !levels) return;
  showLevel("level-in", levels.peakIn);
  showLevel("level-out", levels.peakOut);
  show("overruns", levels.overruns);
  show("underruns", levels.underruns);
  show("silence", `${decimals((1000 * levels.silent) / audio.context.sampleRate, 0)} ms`);
  const parts = { network: percentiles("network"), held: percentiles("held") };
  if (statistics) {
    show("not-coded", statistics.drop_outs.chunks_not_coded);
    show("not-sent", statistics.drop_outs.chunks_not_sent);
    for (const name of ["queue", "encode", "decode"]) parts[name] = statistics.latency_ms[name] ?? { p50: NaN, p95: NaN };
  }
  for (const [name, part] of Object.entries(parts)) {
    show(`${name}-p50`, decimals(part.p50));
    show(`${name}-p95`, decimals(part.p95));
  }
  const device = 1000 * ((audio.context.baseLatency || 0) + (audio.context.outputLatency || 0));
  show("device", decimals(device));
  const settings = audio.settings;
  if (!settings) return;
  const structure = (1000 * (settings.chunk_samples + settings.delay_samples)) / settings.sample_rate_hz;
  const sum = Object.values(parts).reduce((total, part) => total + part.p50, structure + device);
  show("together", decimals(sum, 0));
}

byId("start").onclick = () => (!socket ? connect() : audio ? stop() : start());
byId("model").onchange = () => {
  fillSettings(Number(byId("chunk").value), Number(byId("codebooks").value));
  if (audio) {
    stop();
    start();
  }
};
for (const id of ["chunk", "codebooks", "bypass"]) byId(id).onchange = change;
byId("lead").onchange = setLead;
setInterval(display, 200);
connect();
