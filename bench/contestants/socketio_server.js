// Node's `socket.io`: topics are its rooms, an envelope is one `message` event.
const { createServer } = require("node:http");
const { Server } = require("socket.io");

const http = createServer();
const io = new Server(http, {
  transports: ["websocket"],
  perMessageDeflate: false,
});
const stamped = (envelope) => ({ ...envelope, timestamp: new Date().toISOString() });

io.on("connection", (socket) => {
  socket.on("message", ({ type, topic, data, id }) => {
    if (type === "data") {
      io.to(topic).emit("message", stamped({ type, topic, data }));
    } else if (type === "ping") {
      socket.emit("message", stamped({ type: "pong", data, id }));
    } else if (type === "subscribe") {
      for (const each of topic ? [topic] : data.topics) {
        socket.join(each);
        socket.emit("message", stamped({ type: "subscribed", topic: each, id }));
      }
    }
  });
  socket.emit("message", stamped({ type: "welcome" }));
});

http.listen({ host: "127.0.0.1", port: Number(process.argv.at(-1)), backlog: 1024 });
