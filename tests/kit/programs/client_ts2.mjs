// The client of the TypeScript SDK 2.x, as driver.mjs wants it; `mode` chooses the era: legacy, auto, or a revision.

import { propose } from "./client_ts1.mjs";

export async function connect(require, options, fetch, answers) {
  const { Client, StreamableHTTPClientTransport, SSEClientTransport } = require("@modelcontextprotocol/client");
  const named = ["legacy", "auto"].includes(options.mode ?? "legacy");
  const mode = named ? options.mode ?? "legacy" : { pin: options.mode };
  const client = new Client(
    { name: "kit-ts2", version: "1" },
    { capabilities: { sampling: {}, elicitation: {} }, versionNegotiation: { mode } },
  );
  client.setRequestHandler("sampling/createMessage", async (request) => answers.sample(request.params));
  client.setRequestHandler("elicitation/create", async (request) => answers.elicit(request.params));
  client.fallbackNotificationHandler = async (message) => answers.notice(message);
  client.onerror = (error) => process.stderr.write(`${error}\n`);
  const Transport = options.transport === "sse" ? SSEClientTransport : StreamableHTTPClientTransport;
  const transport = new Transport(new URL(options.urls[0]), { fetch, requestInit: { headers: options.headers ?? {} } });
  const negotiated = propose(transport, options.protocol_version);
  await client.connect(transport);
  return {
    client,
    transport,
    protocol: client.getNegotiatedProtocolVersion?.() ?? negotiated() ?? transport.protocolVersion ?? null,
    call: (params, asked) => client.callTool(params, asked),
  };
}
