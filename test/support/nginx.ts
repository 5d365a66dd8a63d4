/**
 * Debian's nginx on loopback, as a front end of registries in tests: mirrors, TLS, passwords, redirects to storage.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export type Nginx = {
  /** `127.0.0.1:PORT` of each server, in order. */
  readonly hosts: readonly string[];
  readonly accessLog: () => readonly AccessLogEntry[];
  readonly stop: () => Promise<void>;
};

/** `host` is the server's address and port, `authorization` the request header. */
export type AccessLogEntry = { readonly host: string; readonly status: string; readonly path: string; readonly authorization: string };

/** Starts nginx. @param servers the content of each `server` block without `listen`. `{hostN}` is replaced by the address of server N. */
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
  log_format fields '$server_addr:$server_port\\t$status\\t$request_uri\\t$http_authorization';
  access_log ${log} fields;
  client_body_temp_path ${directory}/body; proxy_temp_path ${directory}/proxy; fastcgi_temp_path ${directory}/f; uwsgi_temp_path ${directory}/u; scgi_temp_path ${directory}/s;
  proxy_set_header Host $http_host;
  limit_req_zone $server_port zone=few:64k rate=5r/s;
  ${blocks.join('\n  ')}
}`;
  writeFileSync(join(directory, 'nginx.conf'), conf);
  const args = ['-p', directory, '-c', join(directory, 'nginx.conf')];
  execFileSync('/usr/sbin/nginx', ['-q', '-t', ...args], { stdio: ['ignore', 'inherit', 'inherit'] });
  const child = spawn('/usr/sbin/nginx', [...args, '-g', 'daemon off;'], { stdio: 'ignore' });
  const exited = new Promise((resolve) => child.once('exit', resolve));
  for (const host of hosts)
    while (!(await isListening(host))) {
      assert.equal(child.exitCode, null, 'nginx is running');
      await sleep(20);
    }
  const accessLog = () =>
    readFileSync(log, 'utf8')
      .split('\n')
      .filter((line) => line !== '')
      .map((line): AccessLogEntry => {
        const [host = '', status = '', path = '', authorization = ''] = line.split('\t');
        return { host, status, path, authorization };
      });
  const stop = async () => {
    child.kill('SIGTERM');
    await exited;
  };
  return { hosts, accessLog, stop };
}

/** Returns a free TCP port of loopback. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Returns whether a connection succeeds. @param host `127.0.0.1:PORT`. */
export function isListening(host: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(Number(host.split(':')[1]), '127.0.0.1', () => resolve(true)).on('error', () => resolve(false));
    socket.on('connect', () => socket.destroy());
  });
}
