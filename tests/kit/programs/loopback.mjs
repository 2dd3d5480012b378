// Preloaded into Node servers that can bind nothing but all interfaces: every listener goes to loopback, and standard output gets one JSON line
// `{"ready": true, "port": …, "pid": …}` when it listens. `PORT=0` then means any free port, without a race.

import net from "node:net";

const listen = net.Server.prototype.listen;
const host = process.env.KIT_HOST ?? "127.0.0.1";

// End when the test's process is gone, even by kill -9, so that nothing is left behind.
const parent = process.ppid;
setInterval(() => process.ppid === parent || process.exit(1), 2000).unref();

net.Server.prototype.listen = function (port, ...rest) {
  const isPort = typeof port === "number" || (typeof port === "string" && /^\d+$/.test(port));
  if (!isPort) return listen.call(this, port, ...rest);
  const callback = rest.find((each) => typeof each === "function");
  this.once("listening", () => {
    process.stdout.write(JSON.stringify({ ready: true, port: this.address().port, pid: process.pid }) + "\n");
  });
  return listen.call(this, { port: Number(port), host }, callback);
};
