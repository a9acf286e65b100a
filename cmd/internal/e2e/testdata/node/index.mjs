// What the tests of Node ask of a function.
import { pbkdf2, randomUUID } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { threadId } from 'node:worker_threads';

if (process.env.FAIL_INIT) {
  throw new RangeError(process.env.FAIL_INIT);
}

const born = randomUUID(); // one for each worker
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const now = () => Number(process.hrtime.bigint() / 1000n); // the same clock in all workers

export const handler = async (event, context) => {
  const begin = now();
  if (event.throw) {
    throw new RangeError(event.throw);
  }
  if (event.reject) {
    Promise.reject(new RangeError(event.reject));
  }
  if ('exit' in event) {
    process.exit(event.exit);
  }
  if (event.kill) {
    process.kill(process.pid, event.kill);
    await sleep(1000);
  }
  if (event.pool) { // what takes a thread of libuv's pool
    await Promise.all([promisify(pbkdf2)('a', 'b', 1000, 32, 'sha256'), readFile('/etc/passwd'), lookup('localhost')]);
  }
  await sleep(event.sleep ?? 0);
  return { begin, end: now(), worker: born, thread: threadId, pid: process.pid, id: context.awsRequestId };
};
