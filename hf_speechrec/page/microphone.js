// The microphone. What it hears goes to the server piece after piece, and each waits for the answer to the one before:
// a slow server gets longer pieces later, and nothing is lost, heard twice or out of order, from the first sample on.
const PIECE_SECONDS = 0.25;
const LONGEST_SECONDS = 10; // that the server takes at once
const ATTEMPTS = 4; // to send a piece
const LATE_SECONDS = 0.25; // what was said last is still on its way through the browser
const EAR = `registerProcessor("ear", class extends AudioWorkletProcessor {
  process([[samples]]) {
    if (samples) this.port.postMessage(samples.slice());
    return true;
  }
});`;

const [button, action, firm, partial, note, alert] = [".record", ".action", ".firm", ".partial", ".note", ".alert"].map(
  (name) => element.querySelector(name),
);
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
let current = null; // the visit that is going on

button.addEventListener("click", () => (current ? stop(current) : record()));

async function record() {
  const visit = { id: crypto.randomUUID?.() ?? `${Math.random()}`, isOpen: true };
  current = Object.assign(visit, { blocks: [], waiting: 0, heard: 0, end: 0 }); // samples; seconds of the last word
  for (const part of [firm, partial, alert]) part.textContent = "";
  action.textContent = "Stop";
  button.classList.add("on");
  try {
    await open(visit);
    note.textContent = "Listening…";
    await send(visit);
  } catch (error) {
    alert.textContent = error.message;
  }
  release(visit);
  current = null;
  action.textContent = "Record";
  button.classList.remove("on");
  button.disabled = false;
  button.style.removeProperty("--level");
  partial.textContent = "";
  if (!firm.textContent) note.textContent = alert.textContent ? "" : "No words were heard.";
}

function stop(visit) {
  visit.isOpen = false;
  button.disabled = true; // until the last words stand there
}

async function open(visit) {
  if (!navigator.mediaDevices) throw new Error("Browsers open a microphone for https and for localhost only.");
  visit.context = new AudioContext({ latencyHint: "playback" });
  note.textContent = "Waiting for the microphone…";
  try {
    visit.media = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch (error) {
    throw new Error(`The browser gives no microphone (${error.message}): allow it, and press Record again.`);
  }
  await visit.context.audioWorklet.addModule(URL.createObjectURL(new Blob([EAR], { type: "text/javascript" })));
  const ear = new AudioWorkletNode(visit.context, "ear", { channelCount: 1, channelCountMode: "explicit" });
  ear.port.onmessage = ({ data }) => {
    visit.blocks.push(data);
    visit.waiting += data.length;
    visit.heard += data.length;
  };
  // To the loudspeaker goes silence; some browsers run no node that leads nowhere.
  visit.context.createMediaStreamSource(visit.media).connect(ear).connect(visit.context.destination);
  await visit.context.resume();
}

function release(visit) {
  visit.media?.getTracks().forEach((track) => track.stop());
  if (visit.context && visit.context.state !== "closed") visit.context.close();
}

async function send(visit) {
  const rate = visit.context.sampleRate;
  for (let number = 0, isLast = false; !isLast; number++) {
    while (visit.isOpen && visit.waiting < PIECE_SECONDS * rate) await pause(0.02);
    if (!visit.isOpen && visit.context.state !== "closed") {
      await pause(LATE_SECONDS);
      release(visit);
    }
    const samples = taken(visit, LONGEST_SECONDS * rate);
    isLast = !visit.isOpen && !visit.waiting;
    const piece = { visit: visit.id, number, rate, samples: encoded(samples), is_last: isLast };
    const answer = await answered(piece);
    if (answer.error) throw new Error(answer.error);
    show(visit, answer);
    if (answer.is_over && !isLast) {
      note.textContent = "That is as long as it listens at once: press Record to go on.";
      return;
    }
  }
}

async function answered(piece) {
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    const answer = await server.hear(piece); // nothing, where the connection broke off
    if (answer) return answer; // to a piece that is sent again, too: the server knows it by its number
    await pause(attempt);
  }
  throw new Error("The server does not answer: press Record to begin anew.");
}

function taken(visit, most) {
  let count = 0;
  let size = 0;
  while (count < visit.blocks.length && size + visit.blocks[count].length <= most) size += visit.blocks[count++].length;
  const samples = new Float32Array(size);
  let start = 0;
  for (const block of visit.blocks.splice(0, count)) {
    samples.set(block, start);
    start += block.length;
  }
  visit.waiting -= size;
  return samples;
}

function encoded(samples) {
  let loudest = 0;
  const bytes = new DataView(new ArrayBuffer(2 * samples.length));
  samples.forEach((sample, i) => {
    loudest = Math.max(loudest, Math.abs(sample));
    bytes.setInt16(2 * i, Math.round(32767 * Math.max(-1, Math.min(1, sample))), true);
  });
  button.style.setProperty("--level", Math.min(1, 3 * loudest).toFixed(2));
  let text = "";
  for (let i = 0; i < bytes.byteLength; i++) text += String.fromCharCode(bytes.getUint8(i));
  return btoa(text);
}

function show(visit, { text, partial: beginning, end }) {
  // Words are added and none is replaced, so that a screen reader says each once.
  if (text.length > firm.textContent.length) firm.append(text.slice(firm.textContent.length));
  partial.textContent = beginning;
  if (end > visit.end && visit.isOpen) {
    note.textContent = `${(visit.heard / visit.context.sampleRate - end).toFixed(1)} s behind you`;
  }
  visit.end = end;
}
