// A WebSocket client of /v1/realtime. Knows the protocol's frames and how to come back; not what
// they mean. Events: "server" (detail: a server event), "connection" (detail: {status, ...}).

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 8000;
const POLITE_CLOSE = 1000;

export const NOT_CONNECTED = "NotConnected"; // name of the error; the sentence was told before

export class Realtime extends EventTarget {
  constructor(address = new URL("/v1/realtime", location.href)) {
    super();
    this.address = new URL(address);
    this.address.protocol = this.address.protocol.replace("http", "ws");
    this.status = "closed"; // closed, connecting, open, waiting
    this.wanted = false;
    this.key = "";
    this.attempts = 0;
  }

  // Connect, and resolve once the server has greeted; fail where there is no use in trying on.
  connect(key) {
    this.key = key;
    this.wanted = true;
    if (this.status === "open") return Promise.resolve();
    this.greeting ??= resolvers();
    if (this.status !== "connecting") this.dial();
    return this.greeting.promise;
  }

  close() {
    clearTimeout(this.timer);
    this.socket?.close(POLITE_CLOSE);
    this.socket = null;
    this.giveUp("");
  }

  // Give whether the event left.
  send(type, fields = {}) {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify({ type, ...fields }));
    return true;
  }

  dial() {
    clearTimeout(this.timer);
    const protocols = ["realtime"];
    if (this.key) protocols.push(`openai-insecure-api-key.${this.key}`);
    this.tell("connecting");
    let socket;
    try {
      socket = new WebSocket(this.address, protocols);
    } catch {
      this.giveUp("The API key has letters that a key cannot have. See the settings.");
      return;
    }
    this.socket = socket;
    socket.onmessage = ({ data }) => {
      if (socket === this.socket) this.read(JSON.parse(data));
    };
    socket.onclose = (event) => {
      if (socket === this.socket) this.lose(event);
    };
  }

  read(event) {
    if (event.type === "session.created") {
      this.attempts = 0;
      this.tell("open");
      this.greeting?.resolve();
      this.greeting = null;
    }
    this.dispatchEvent(new CustomEvent("server", { detail: event }));
  }

  async lose({ code, reason }) {
    const wasOpen = this.status === "open";
    this.socket = null;
    if (!this.wanted) return;
    if (code === POLITE_CLOSE) {
      this.giveUp(reason || "The server ended the session. Press the button to begin anew.");
    } else if (!wasOpen && (await this.refused())) {
      this.giveUp("This server wants another API key. Put it into the settings.");
    } else if (this.wanted) this.wait(wasOpen);
  }

  // A browser does not tell a page why a WebSocket was refused; plain HTTP does.
  async refused() {
    const headers = this.key ? { authorization: `Bearer ${this.key}` } : {};
    try {
      const answer = await fetch("/v1/models", { headers });
      return answer.status === 401 || answer.status === 403;
    } catch {
      return false;
    }
  }

  wait(wasOpen) {
    const waitMs = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.attempts);
    this.attempts += 1;
    this.tell("waiting", { waitMs, wasOpen });
    this.timer = setTimeout(() => this.dial(), waitMs);
  }

  giveUp(message) {
    this.wanted = false;
    this.greeting?.reject(new DOMException(message, NOT_CONNECTED));
    this.greeting = null;
    this.tell("closed", { message });
  }

  tell(status, more = {}) {
    this.status = status;
    this.dispatchEvent(new CustomEvent("connection", { detail: { status, ...more } }));
  }
}

// Promise.withResolvers is not in every browser yet.
function resolvers() {
  const found = {};
  found.promise = new Promise((resolve, reject) => Object.assign(found, { resolve, reject }));
  return found;
}
