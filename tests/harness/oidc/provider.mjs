// A real OpenID provider for tests, with its state in memory. `../src/oidc.rs` starts it.
//
// Reads $CLIENT_SECRET, and prints `{"port":N}` on a line once it listens on 127.0.0.1.

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import Provider from 'oidc-provider';
import { createMemoryAdapter } from 'oidc-provider/lib/adapters/memory_adapter.js';

// Node has it from 22.1 on; all else that the library uses, Node 20.12 has.
URL.parse ??= (uri, base) => (URL.canParse(uri, base) ? new URL(uri, base) : null);

// What a client's tokens are signed with is a setting of the client.
const client = (id, algorithm) => ({
  client_id: id,
  client_secret: process.env.CLIENT_SECRET,
  token_endpoint_auth_method: 'client_secret_basic',
  grant_types: ['authorization_code', 'client_credentials'],
  redirect_uris: ['https://app.example/callback'],
  id_token_signed_response_alg: algorithm,
});

const configuration = {
  // The library's own, but one for all: otherwise a change of keys would forget every token and session.
  adapter: createMemoryAdapter(),
  clients: [client('meshgate', 'RS256'), client('meshgate-es256', 'ES256')],
  cookies: { keys: [randomBytes(32).toString('base64url')] },
  // Whoever logs in exists.
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  pkce: { required: () => true },
  ttl: {
    AccessToken: 3600,
    AuthorizationCode: 60,
    ClientCredentials: 3600,
    Grant: 3600,
    IdToken: 3600,
    Interaction: 600,
    Session: 3600,
  },
  features: {
    clientCredentials: { enabled: true },
    // A login page that takes any login, and a page of consent.
    devInteractions: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      // Every URI names an API, which knows every scope.
      getResourceServerInfo: (ctx, resource, { idTokenSignedResponseAlg: alg }) => {
        const asked = ctx.oidc.params.scope ?? ctx.oidc.entities.AuthorizationCode?.scope ?? '';
        const scope = asked.split(' ').filter((name) => name !== 'openid').join(' ');
        return { audience: resource, scope, accessTokenFormat: 'jwt', jwt: { sign: { alg } } };
      },
    },
  },
};

const newKeys = () => [
  ['RS256', generateKeyPairSync('rsa', { modulusLength: 2048 })],
  ['ES256', generateKeyPairSync('ec', { namedCurve: 'P-256' })],
].map(([alg, { privateKey }]) => ({ ...privateKey.export({ format: 'jwk' }), alg, use: 'sig' }));

const server = createServer();
server.listen(0, '127.0.0.1');
await once(server, 'listening');
const { port } = server.address();

let keys;
let serve;

// The first key of an algorithm is the one that signs.
function publish(jwks) {
  keys = jwks;
  const provider = new Provider(`http://127.0.0.1:${port}`, { ...configuration, jwks: { keys } });
  provider.on('server_error', (ctx, error) => console.error(error));
  serve = provider.callback();
}

const controls = {
  '/harness/rotate': () => publish([...newKeys(), ...keys]),
  '/harness/retire': () => publish(keys.slice(0, 2)),
};

publish(newKeys());
server.on('request', (request, response) => {
  const control = request.method === 'POST' && controls[request.url];
  if (!control) {
    serve(request, response);
    return;
  }
  control();
  response.writeHead(204).end();
});
console.log(JSON.stringify({ port }));
