// The WebSocket: one message at a time goes to the server, the next one after the answer.

export class Refused extends Error {}
export class Cancelled extends Error {}

const LENGTH = 4; // bytes in front of a binary message's JSON

function pack(message, picture) {
  const text = JSON.stringify(message);
  if (!picture) return text;
  const json = new TextEncoder().encode(text);
  const length = new DataView(new ArrayBuffer(LENGTH));
  length.setUint32(0, json.length);
  return new Blob([length.buffer, json, picture]);
}

function unpack(data) {
  if (typeof data === "string") return { header: JSON.parse(data), data: null };
  const end = LENGTH + new DataView(data).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(data.slice(LENGTH, end)));
  return { header, data: data.slice(end) };
}

// `on` has functions for messages that come unasked: hello, queue, progress, bye, closed.
export class Link {
  constructor(on) {
    this.on = on;
    this.waiting = null; // functions of the current message's promise
    this.last = Promise.resolve();
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/live`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = (event) => this.take(unpack(event.data));
    this.socket.onclose = () => this.end();
  }

  // The answer to a message, {header, data}. Throws Refused with a sentence, or Cancelled.
  ask(message, picture = null) {
    const answer = this.last.then(() => this.send(message, picture));
    this.last = answer.catch(() => {});
    return answer;
  }

  cancel() {
    if (this.waiting) this.socket.send('{"do":"cancel"}');
  }

  send(message, picture) {
    return new Promise((resolve, reject) => {
      if (this.socket.readyState !== WebSocket.OPEN) {
        reject(new Cancelled());
        return;
      }
      this.waiting = { resolve, reject };
      this.socket.send(pack(message, picture));
    });
  }

  take(answer) {
    const type = answer.header.type;
    if (type in this.on) {
      this.on[type](answer.header);
      return;
    }
    const { resolve, reject } = this.waiting;
    this.waiting = null;
    if (type === "refused") reject(new Refused(answer.header.text));
    else if (type === "cancelled") reject(new Cancelled());
    else resolve(answer);
  }

  end() {
    this.waiting?.reject(new Cancelled());
    this.waiting = null;
    this.on.closed();
  }
}
