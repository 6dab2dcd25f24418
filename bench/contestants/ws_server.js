// Node's `ws`: a fan-out is a loop over `send`, of a string encoded once.
const { WebSocketServer } = require("ws");

const subscribers = new Map();
const encode = (envelope) =>
  JSON.stringify({ ...envelope, timestamp: new Date().toISOString() });

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.argv.at(-1)),
  backlog: 1024,
  perMessageDeflate: false,
});

server.on("connection", (socket) => {
  socket.on("error", () => socket.terminate());
  socket.on("close", () => {
    for (const members of subscribers.values()) members.delete(socket);
  });
  socket.on("message", (payload) => {
    const { type, topic, data, id } = JSON.parse(payload);
    if (type === "data") {
      const text = Buffer.from(encode({ type, topic, data }));
      for (const member of subscribers.get(topic) ?? []) member.send(text, { binary: false });
    } else if (type === "ping") {
      socket.send(encode({ type: "pong", data, id }));
    } else if (type === "subscribe") {
      for (const each of topic ? [topic] : data.topics) {
        if (!subscribers.has(each)) subscribers.set(each, new Set());
        subscribers.get(each).add(socket);
        socket.send(encode({ type: "subscribed", topic: each, id }));
      }
    }
  });
  socket.send(encode({ type: "welcome" }));
});
