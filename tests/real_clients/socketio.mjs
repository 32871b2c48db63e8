// node socketio.mjs URL USER TRANSPORT...: add notes in examples/socketio_notes by socket.io-client,
// two over one connection and one over the next.
//
// In Node the client keeps cookies for one connection at most (`withCredentials`), and none from a
// WebSocket's handshake. So it is given those of the page, as a browser does by itself.

import { io } from "socket.io-client";

const [url, user, ...transports] = process.argv.slice(2);
const page = await fetch(url);
const cookie = page.headers.getSetCookie().map((line) => line.split(";")[0]).join("; ");
const extraHeaders = cookie ? { cookie } : {};
const socket = io(url, {
  auth: { user },
  autoConnect: false,
  extraHeaders,
  reconnection: false,
  transports,
});
const answers = [];

function connect() {
  return new Promise((resolve, reject) => {
    socket.once("connect", resolve);
    socket.once("connect_error", reject);
    socket.once("disconnect", (reason) => reject(new Error(reason)));
    socket.connect();
  });
}

async function upgrade() {
  const { engine } = socket.io;
  if (engine.transport.name === transports.at(-1)) return;
  await new Promise((resolve, reject) => {
    engine.once("upgrade", resolve);
    setTimeout(() => reject(new Error("no upgrade")), 30_000);
  });
}

async function add(text) {
  const { process, notes } = await socket.timeout(30_000).emitWithAck("note", text);
  answers.push({ process, notes, transport: socket.io.engine.transport.name });
}

let error = null;
try {
  await connect();
  await upgrade();
  await add("milk");
  await add("bread");
  socket.disconnect();
  await connect();
  await upgrade();
  await add("salt");
} catch (problem) {
  error = problem.message;
}
console.log(JSON.stringify({ answers, error }));
// Connections that the server keeps for a while after their end would hold up this process.
process.exit();
