// Installs graphile-worker and pg-boss into a database through their own code, and prints the statements that they run, as JSON:
// for each the text and the values of enqueueing, fetching and completing n jobs. node event_peers.mjs postgresql://… <n> …
import { createRequire } from "node:module";
const require = createRequire(process.cwd() + "/");
const pg = require("pg");

const [url, ...sizes] = process.argv.slice(2);
const out = {};
const payload = { text_id: 17, similarity: 0.97 };

async function graphile() {
  const { runMigrations, makeWorkerUtils } = require("graphile-worker");
  await runMigrations({ connectionString: url });
  const utils = await makeWorkerUtils({ connectionString: url });
  await utils.addJob("load", payload);
  await utils.release();
  const { processSharedOptions } = require("graphile-worker/dist/lib.js");
  const { batchGetJobs } = require("graphile-worker/dist/sql/getJobs.js");
  const { batchCompleteJobs } = require("graphile-worker/dist/sql/completeJobs.js");
  const pool = new pg.Pool({ connectionString: url });
  const compiled = processSharedOptions({ pgPool: pool });
  const found = {};
  for (const n of sizes.map(Number)) {
    const seen = [];
    const client = { query: (q, v) => { seen.push({ text: q.text ?? q, values: q.values ?? v }); return pool.query(q, v); } };
    const withPgClient = (work) => work(client);
    withPgClient.withRetries = withPgClient;
    await batchGetJobs(compiled, withPgClient, { load: async () => {} }, "bench", null, n);
    const fetch = seen.at(-1);
    await batchCompleteJobs(compiled, withPgClient, "bench", Array.from({ length: n }, (_, i) => ({ id: String(-1 - i), job_queue_id: null })));
    found[n] = { fetch, complete: seen.at(-1) };
  }
  await pool.query("DELETE FROM graphile_worker._private_jobs");
  await pool.end();
  out["graphile-worker"] = { version: require("graphile-worker/package.json").version, sizes: found };
}

async function boss() {
  const PgBoss = require("pg-boss");
  const seen = [];
  const pool = new pg.Pool({ connectionString: url });
  const db = { executeSql: (text, values) => { seen.push({ text, values }); return pool.query(text, values); } };
  const worker = new PgBoss({ db, supervise: false, schedule: false });
  await worker.start();
  await worker.createQueue("load");
  const found = {};
  for (const n of sizes.map(Number)) {
    await worker.insert(Array.from({ length: n }, () => ({ name: "load", data: payload })));
    const insert = seen.at(-1);
    const jobs = await worker.fetch("load", { batchSize: n });
    const fetch = seen.at(-1);
    await worker.complete("load", jobs.map((j) => j.id));
    found[n] = { insert, fetch, complete: seen.at(-1) };
  }
  await worker.stop({ graceful: false }).catch(() => {});
  await pool.query("DELETE FROM pgboss.job");
  await pool.end();
  out["pg-boss"] = { version: require("pg-boss/package.json").version, sizes: found };
}

for (const peer of [graphile, boss]) {
  await peer().catch((error) => { out[peer.name === "boss" ? "pg-boss" : "graphile-worker"] = { error: String(error) }; });
}
console.log(JSON.stringify(out));
process.exit(0);
