/**
 * Debian's nginx on the loopback, for what stands before registries: mirrors, TLS, passwords, redirects to storage. Ends with the test file.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export type Nginx = {
  /** Of each server, in order: one a port. */
  readonly hosts: readonly string[];
  /** Lines of the access log: host and port asked, status, path, and what was in `authorization`. */
  readonly seen: () => readonly Seen[];
  readonly stop: () => Promise<void>;
};

export type Seen = { readonly host: string; readonly status: string; readonly path: string; readonly authorization: string };

/** @param servers the inside of each `server` block but for `listen`; `{host}` with a number stands for that server's own address. */
export async function startNginx(directory: string, servers: readonly { readonly tls?: boolean; readonly block: string }[]): Promise<Nginx> {
  mkdirSync(directory, { recursive: true });
  const hosts: string[] = [];
  for (const _ of servers) hosts.push(`127.0.0.1:${await freePort()}`);
  const blocks = servers.map(({ tls, block }, index) => {
    const inside = block.replace(/\{host([0-9]+)\}/g, (_, at) => hosts[Number(at)] ?? '');
    return `server { listen ${hosts[index]}${tls === true ? ' ssl' : ''}; ${inside} }`;
  });
  const log = join(directory, 'access.log');
  const conf = `user root; pid ${directory}/nginx.pid; worker_processes 1; error_log ${directory}/error.log;
events { worker_connections 256; }
http {
  log_format seen '$server_addr:$server_port\\t$status\\t$request_uri\\t$http_authorization';
  access_log ${log} seen;
  client_body_temp_path ${directory}/body; proxy_temp_path ${directory}/proxy; fastcgi_temp_path ${directory}/f; uwsgi_temp_path ${directory}/u; scgi_temp_path ${directory}/s;
  proxy_set_header Host $http_host;
  limit_req_zone $server_port zone=few:64k rate=5r/s;
  ${blocks.join('\n  ')}
}`;
  writeFileSync(join(directory, 'nginx.conf'), conf);
  const args = ['-p', directory, '-c', join(directory, 'nginx.conf')];
  execFileSync('/usr/sbin/nginx', ['-q', '-t', ...args], { stdio: ['ignore', 'inherit', 'inherit'] });
  const child = spawn('/usr/sbin/nginx', [...args, '-g', 'daemon off;'], { stdio: 'ignore' });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  for (const host of hosts)
    while (!(await isListening(host))) {
      assert.equal(child.exitCode, null, 'nginx runs');
      await sleep(20);
    }
  const seen = () =>
    readFileSync(log, 'utf8')
      .split('\n')
      .filter((line) => line !== '')
      .map((line): Seen => {
        const [host = '', status = '', path = '', authorization = ''] = line.split('\t');
        return { host, status, path, authorization };
      });
  const stop = async () => {
    child.kill('SIGTERM');
    await ended;
  };
  return { hosts, seen, stop };
}

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

export function isListening(host: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(Number(host.split(':')[1]), '127.0.0.1', () => resolve(true)).on('error', () => resolve(false));
    socket.on('connect', () => socket.destroy());
  });
}
