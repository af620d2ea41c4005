// A worker for pgedge's event queue: pg, LISTEN and claim. Run as many as you like; kill any at any time.
//
//     node worker.mjs postgresql://… [type …]
import pg from "pg";

async function handle(type, payload) {
  console.log(type, JSON.stringify(payload)); // your work; it may run again after a crash, so make it repeatable
}

async function work(url, types) {
  const client = new pg.Client({ connectionString: url });
  let wake = () => {}, over, notified = false;
  client.on("notification", () => { notified = true; wake(); });
  client.on("error", (error) => { over = error; wake(); });
  try {
    await client.connect();
    await client.query("LISTEN pgedge_events");
    while (!over) {
      notified = false;
      const { rows } = await client.query(
        "SELECT id, event_type, payload, lease_token FROM pgedge.claim_events(10, '1 minute', $1, 'worker.mjs')", [types]);
      for (const { id, event_type, payload, lease_token } of rows) {
        const failure = await handle(event_type, payload).then(() => null, (error) => String(error)); // tried again later
        if (failure === null) await client.query("SELECT pgedge.complete_events(ARRAY[$1]::bigint[], $2)", [id, lease_token]);
        else await client.query("SELECT pgedge.fail_events(ARRAY[$1]::bigint[], $2, $3)", [id, lease_token, failure]);
      }
      if (rows.length || notified || over) continue;
      await new Promise((resolve) => { wake = resolve; setTimeout(resolve, 5000); }); // or look for what became due
    }
    throw over;
  } finally {
    await client.end().catch(() => {});
  }
}

const [url, ...types] = process.argv.slice(2);
for (;;) {
  await work(url, types.length ? types : null).catch((error) => console.error(String(error))); // what was claimed comes back by itself
  await new Promise((resolve) => setTimeout(resolve, 1000));
}
