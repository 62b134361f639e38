// Node's own http module, as its users write it.
import cluster from "node:cluster";
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    port: { type: "string" },
    document: { type: "string" },
    workers: { type: "string" },
    certificate: { type: "string" },
    key: { type: "string" },
  },
});

const document = JSON.parse(readFileSync(options.document, "utf8"));
const piece = Buffer.from("0123456789abcdef".repeat(4096));
const pieces = 16;
const large = Buffer.concat(Array(pieces).fill(piece));

async function answer(request, response) {
  const url = new URL(request.url, "http://localhost");
  if (request.method === "GET" && url.pathname === "/") {
    response.setHeader("Content-Type", "text/plain; charset=utf-8");
    response.end("Hello, world!");
  } else if (request.method === "GET" && url.pathname === "/json") {
    response.setHeader("Content-Type", "application/json");
    response.end(JSON.stringify(document));
  } else if (request.method === "GET" && url.pathname.startsWith("/items/")) {
    const number = Number.parseInt(url.pathname.slice("/items/".length), 10);
    response.setHeader("Content-Type", "text/plain; charset=utf-8");
    response.end(`${number} ${url.searchParams.get("color")} ${url.searchParams.get("page")}`);
  } else if (request.method === "POST" && url.pathname === "/echo") {
    const parts = [];
    for await (const part of request) parts.push(part);
    response.end(Buffer.concat(parts));
  } else if (request.method === "GET" && url.pathname === "/large") {
    response.end(large);
  } else if (request.method === "GET" && url.pathname === "/stream") {
    for (let i = 0; i < pieces; i++) {
      if (!response.write(piece)) await new Promise((resolve) => response.once("drain", resolve));
    }
    response.end();
  } else if (request.method === "POST" && url.pathname === "/upload") {
    let count = 0;
    for await (const part of request) count += part.length;
    response.end(String(count));
  } else {
    response.statusCode = 404;
    response.end();
  }
}

function listener(request, response) {
  // A client that leaves in the middle of its upload makes the reading of it fail.
  answer(request, response).catch(() => response.destroy());
}

function serve() {
  const server = options.certificate
    ? https.createServer({ cert: readFileSync(options.certificate), key: readFileSync(options.key) }, listener)
    : http.createServer(listener);
  server.listen({ host: "127.0.0.1", port: Number(options.port), backlog: 2048 });
}

if (options.workers && cluster.isPrimary) {
  for (let i = 0; i < Number(options.workers); i++) cluster.fork();
  process.on("SIGTERM", () => process.exit(0));
} else {
  serve();
}
