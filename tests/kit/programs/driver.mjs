// A real MCP client on one of the TypeScript SDKs, driven by lines of JSON: `node driver.mjs DIALECT OPTIONS`, the same words as driver.py.
// KIT_MODULES names the node_modules folder of the SDK. DIALECT is client_ts1 or client_ts2 beside this file.

import { createRequire } from "node:module";

const [dialectName, optionsText] = process.argv.slice(2);
const options = JSON.parse(optionsText);
const require = createRequire(`${process.env.KIT_MODULES}/`);
const dialect = await import(`./${dialectName}.mjs`);

const say = (report) => process.stdout.write(JSON.stringify(report) + "\n");

// A small generator of our own (mulberry32): Math.random takes no seed.
function lots(seed) {
  let state = seed >>> 0;
  return (count) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % count;
  };
}

const journal = {
  notifications: [],
  asked: [],
  exchanges: [],
  waiting: new Set(),
  notice(method, params) {
    if (method === "notifications/progress") return;
    this.notifications.push({ method, params });
    for (const wake of this.waiting) wake();
  },
  async awaitNotifications(count, seconds) {
    const deadline = Date.now() + seconds * 1000;
    while (this.notifications.length < count && Date.now() < deadline) {
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, deadline - Date.now());
        this.waiting.add(() => { clearTimeout(timer); resolve(); });
      });
      this.waiting.clear();
    }
    return this.notifications;
  },
};

// Each request to one of the addresses, by lot; path and query stay as the SDK made them.
function switchingFetch(targets, seed) {
  const draw = lots(seed);
  return async (input, init = {}) => {
    const index = draw(targets.length);
    const url = new URL(input.url ?? input);
    url.host = new URL(targets[index]).host;
    const headers = new Headers(init.headers);
    let rpc = null;
    if (typeof init.body === "string") rpc = JSON.parse(init.body).method ?? null;
    const exchange = {
      method: init.method ?? "GET",
      rpc,
      target: index,
      session: headers.get("mcp-session-id"),
      protocol: headers.get("mcp-protocol-version"),
      last_event_id: headers.get("last-event-id"),
    };
    journal.exchanges.push(exchange);
    const response = await fetch(url, init);
    exchange.status = response.status;
    exchange.content_type = response.headers.get("content-type");
    exchange.answered_session = response.headers.get("mcp-session-id");
    return response;
  };
}

function describe(error) {
  const isHttp = error?.constructor?.name === "StreamableHTTPError"; // of SDK 1.x: its code is the HTTP status
  return {
    type: error?.constructor?.name ?? typeof error,
    message: String(error?.message ?? error),
    code: typeof error?.code === "number" && !isHttp ? error.code : null,
    data: error?.data ?? null,
    status: isHttp ? error.code : error?.status ?? error?.data?.status ?? null,
  };
}

async function act(connection, step, signal) {
  const given = step.arguments ?? {};
  switch (step.do) {
    case "call": {
      const progress = [];
      const onprogress = (each) => progress.push({ progress: each.progress, total: each.total ?? null, message: each.message ?? null });
      const result = await connection.call({ name: step.name, arguments: given }, { onprogress, signal, timeout: options.call_seconds_max * 1000 });
      return { result, progress };
    }
    case "notifications":
      return { result: await journal.awaitNotifications(step.count ?? 0, step.seconds_max ?? 5) };
    case "asked":
      return { result: journal.asked };
    case "exchanges":
      return { result: journal.exchanges };
    case "list_tools":
      return { result: await connection.client.listTools() };
    case "list_resources":
      return { result: await connection.client.listResources() };
    case "list_prompts":
      return { result: await connection.client.listPrompts() };
    case "read_resource":
      return { result: await connection.client.readResource(given) };
    case "subscribe_resource":
      return { result: await connection.client.subscribeResource(given) };
    case "get_prompt":
      return { result: await connection.client.getPrompt(given) };
    case "set_logging_level":
      return { result: await connection.client.setLoggingLevel(given.level) };
    case "send_ping":
      return { result: await connection.client.ping() };
    default:
      throw new Error(`unknown step: ${step.do}`);
  }
}

function answers() {
  return {
    sample(params) {
      journal.asked.push({ method: "sampling/createMessage", params });
      const content = [params.messages[0].content].flat()[0];
      return { role: "assistant", model: "kit", content: { type: "text", text: `sampled: ${content.text}` } };
    },
    elicit(params) {
      journal.asked.push({ method: "elicitation/create", params });
      return { action: "accept", content: { name: "Ada" } };
    },
    notice(message) {
      journal.notice(message.method, message.params);
    },
  };
}

// node:readline would end a line at U+2028 too, which JSON may hold as it is.
async function* linesOf(stream) {
  let left = "";
  for await (const piece of stream.setEncoding("utf8")) {
    const lines = (left + piece).split("\n");
    left = lines.pop();
    yield* lines;
  }
}

async function main() {
  let connection;
  try {
    connection = await dialect.connect(require, options, switchingFetch(options.urls, options.seed ?? 0), answers());
  } catch (error) {
    say({ ready: false, error: describe(error) });
    process.exit(3);
  }
  say({ ready: true, protocol: connection.protocol, library: `node ${process.version}` });
  const running = new Map();
  for await (const line of linesOf(process.stdin)) {
    const step = JSON.parse(line);
    if (step.do === "abandon") {
      running.get(step.of)?.abort("given up by the test");
      say({ step: step.step, ok: true, result: {} });
      continue;
    }
    const controller = new AbortController();
    running.set(step.step, controller);
    act(connection, step, controller.signal)
      .then((report) => say({ step: step.step, ok: true, ...report }))
      .catch((error) => say({ step: step.step, ok: false, error: describe(error) }))
      .finally(() => running.delete(step.step));
  }
  // The SDKs never DELETE by themselves: only terminateSession() does.
  if (options.terminate && connection.transport.terminateSession) await connection.transport.terminateSession();
  await connection.client.close();
  process.exit(0);
}

await main();
