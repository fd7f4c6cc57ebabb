// Shows the messages of the conversation, each as it grows.

const NAMES = { user: "You", assistant: "Answer" };

export class Transcript {
  constructor(list) {
    this.list = list;
    this.shown = new Map(); // message's id to its element
    this.following = true; // until the reader scrolls up
    list.addEventListener("scroll", () => {
      this.following = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
    });
    new ResizeObserver(() => this.follow()).observe(list);
  }

  show(messages) {
    const { list } = this;
    list.dataset.empty = String(messages.length === 0);
    for (const message of messages) {
      if (!this.shown.has(message.id)) {
        const element = build(message);
        this.shown.set(message.id, element);
        list.append(element);
      }
      fill(this.shown.get(message.id), message);
    }
    this.follow();
  }

  follow() {
    if (this.following) this.list.scrollTop = this.list.scrollHeight;
  }
}

function build({ role }) {
  const element = document.createElement("li");
  element.className = role;
  if (role === "line") return element;
  for (const name of ["who", "words", "facts"]) {
    const part = document.createElement(name === "words" ? "p" : "span");
    part.className = name;
    element.append(part);
  }
  element.querySelector(".who").textContent = NAMES[role];
  return element;
}

function fill(element, message) {
  const mark = JSON.stringify(message);
  if (element.mark === mark) return;
  element.mark = mark;
  if (message.role === "line") {
    element.textContent = message.text;
    return;
  }
  const words = element.querySelector(".words");
  const { text, heard } = message;
  if (heard === undefined || heard >= text.length) words.textContent = text;
  else {
    const unheard = document.createElement("s");
    unheard.textContent = text.slice(heard);
    unheard.title = "not heard";
    words.replaceChildren(text.slice(0, heard), unheard);
  }
  if (text === "" && message.role === "user") words.textContent = message.status === "begun" ? "\u2026" : "(spoken)";
  element.dataset.spoken = String(text === "" && message.role === "user");
  element.querySelector(".facts").textContent = facts(message).join(" \u00b7 ");
}

function facts({ firstSoundMs, firstWordMs, note }) {
  const found = [];
  if (firstSoundMs !== undefined) found.push(`first sound after ${Math.round(firstSoundMs)} ms`);
  else if (firstWordMs !== undefined) found.push(`first word after ${Math.round(firstWordMs)} ms`);
  if (note) found.push(note);
  return found;
}
