// The client of the TypeScript SDK 1.x, as driver.mjs wants it.

export async function connect(require, options, fetch, answers) {
  const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
  const { StreamableHTTPClientTransport } = require("@modelcontextprotocol/sdk/client/streamableHttp.js");
  const { SSEClientTransport } = require("@modelcontextprotocol/sdk/client/sse.js");
  const types = require("@modelcontextprotocol/sdk/types.js");
  const client = new Client({ name: "kit-ts1", version: "1" }, { capabilities: { sampling: {}, elicitation: {} } });
  client.setRequestHandler(types.CreateMessageRequestSchema, async (request) => answers.sample(request.params));
  client.setRequestHandler(types.ElicitRequestSchema, async (request) => answers.elicit(request.params));
  client.fallbackNotificationHandler = async (message) => answers.notice(message);
  client.onerror = (error) => process.stderr.write(`${error}\n`);
  const Transport = options.transport === "sse" ? SSEClientTransport : StreamableHTTPClientTransport;
  const transport = new Transport(new URL(options.urls[0]), { fetch, requestInit: { headers: options.headers ?? {} } });
  const negotiated = propose(transport, options.protocol_version);
  await client.connect(transport);
  return {
    client,
    transport,
    protocol: negotiated() ?? transport.protocolVersion ?? null,
    call: (params, asked) => client.callTool(params, undefined, asked),
  };
}

// The SDK always proposes its newest revision; a test that wants an older one changes the message on its way out.
export function propose(transport, version) {
  const send = transport.send.bind(transport);
  transport.send = (message, ...rest) => {
    if (version && message.method === "initialize") message = { ...message, params: { ...message.params, protocolVersion: version } };
    return send(message, ...rest);
  };
  let seen = null;
  const start = transport.start.bind(transport);
  transport.start = () => {
    const onmessage = transport.onmessage;
    transport.onmessage = (message, ...rest) => {
      seen ??= message.result?.protocolVersion ?? null;
      return onmessage?.(message, ...rest);
    };
    return start();
  };
  return () => seen;
}
