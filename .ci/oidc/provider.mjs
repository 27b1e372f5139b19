// Runs a real OpenID provider (oidc-provider) on a port of this machine, logs somebody in, and
// prints what came of it as one line of JSON. It ends when its input does.
//
// `access_token` and `access_token_es256` are JWT access tokens for the audience AUDIENCE (RFC
// 9068), `access_token_ps256` is one with an algorithm that the server does not take; `id_token`
// and `code` come from whole authorization code flows.
//
// Two native clients sign in on any loopback port: `native`, which has no secret, and
// `native-secret`. The parameter `login_hint` says how a person responds: `refuse` refuses, `form`
// fills in a form, anything else agrees at once.

import { generateKeyPairSync, randomBytes } from "node:crypto";
import { createServer } from "node:http";
import Provider from "oidc-provider";

const audience = process.env.AUDIENCE ?? "my-app";
const client = { client_id: "keyfob", client_secret: randomBytes(32).toString("hex") };
const redirectUri = "http://127.0.0.1:9/callback";
const deviceCode = "urn:ietf:params:oauth:grant-type:device_code";
const native = {
  application_type: "native",
  grant_types: ["authorization_code", deviceCode],
  redirect_uris: ["http://127.0.0.1/callback", "http://[::1]/callback", "http://localhost/callback"],
};
const nativeSecret = "a secret: with %, + and /";

function key(kid, type, options) {
  const { privateKey } = generateKeyPairSync(type, options);
  return { ...privateKey.export({ format: "jwk" }), kid, use: "sig" };
}

const http = createServer();
await new Promise((listening) => http.listen(0, "127.0.0.1", listening));
const issuer = `http://127.0.0.1:${http.address().port}`;

const provider = new Provider(issuer, {
  clients: [
    {
      ...client,
      grant_types: ["authorization_code", "client_credentials"],
      redirect_uris: [redirectUri],
      token_endpoint_auth_method: "client_secret_post",
    },
    { ...native, client_id: "native", token_endpoint_auth_method: "none" },
    {
      ...native,
      client_id: "native-secret",
      client_secret: nativeSecret,
      token_endpoint_auth_method: "client_secret_basic",
    },
  ],
  jwks: {
    keys: [
      key("rsa", "rsa", { modulusLength: 2048 }),
      key("ec", "ec", { namedCurve: "P-256" }),
    ],
  },
  cookies: { keys: [randomBytes(32).toString("hex")] },
  claims: { openid: ["sub"], profile: ["name", "given_name"], email: ["email"] },
  conformIdTokenClaims: false,
  pkce: { required: () => false },
  ttl: { AccessToken: 600, ClientCredentials: 600, IdToken: 600, Grant: 600, Interaction: 600, Session: 600 },
  findAccount: (_, accountId) => ({
    accountId,
    claims: () => ({
      sub: accountId,
      name: "Ada Lovelace",
      given_name: "Ada",
      email: "ada@example.org",
    }),
  }),
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  features: {
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_, resource) => ({
        audience,
        scope: "",
        accessTokenFormat: "jwt",
        jwt: { sign: { alg: resource.split(":").at(-1) } },
      }),
    },
  },
});

const form = `<!doctype html><html><title>Sign in</title>
<form method="post"><input name="name" value="Ada"><button>Sign in</button></form></html>`;

/** Says what a person in front of the browser says to the provider: mostly yes. */
async function interact(request, response) {
  const { prompt, params, session } = await provider.interactionDetails(request, response);
  if (params.login_hint === "refuse") {
    const refusal = { error: "access_denied", error_description: "Ada said no" };
    return provider.interactionFinished(request, response, refusal);
  }
  if (params.login_hint === "form" && request.method === "GET") {
    return response.writeHead(200, { "Content-Type": "text/html" }).end(form);
  }
  if (prompt.name === "login") {
    const login = { accountId: "ada-lovelace" };
    return provider.interactionFinished(request, response, { login });
  }
  const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  const consent = { grantId: await grant.save() };
  return provider.interactionFinished(request, response, { consent });
}

const callback = provider.callback();
http.on("request", (request, response) => {
  if (request.url.startsWith("/interaction/")) {
    interact(request, response).catch((error) => {
      console.error(error);
      response.writeHead(500).end();
    });
  } else {
    callback(request, response);
  }
});

async function token(form) {
  const body = new URLSearchParams({ ...client, ...form });
  const response = await fetch(`${issuer}/token`, { method: "POST", body });
  const answer = await response.json();
  if (!response.ok) {
    throw new Error(JSON.stringify(answer));
  }
  return answer;
}

async function accessToken(algorithm) {
  const resource = `urn:keyfob:${algorithm}`;
  return (await token({ grant_type: "client_credentials", resource })).access_token;
}

/** Walks through the authorization code flow as a browser does, up to the code. */
async function authorize() {
  const query = new URLSearchParams({
    client_id: client.client_id,
    redirect_uri: redirectUri,
    response_type: "code",
    scope: "openid profile email",
  });
  const cookies = new Map();
  let url = `${issuer}/auth?${query}`;
  for (let step = 0; step < 10; step += 1) {
    const cookie = [...cookies].map((pair) => pair.join("=")).join("; ");
    const response = await fetch(url, { headers: { cookie }, redirect: "manual" });
    for (const line of response.headers.getSetCookie()) {
      const [name, value] = line.split(";")[0].split("=");
      cookies.set(name, value);
    }
    const location = response.headers.get("location");
    if (!location) {
      throw new Error(`${url}: ${response.status} ${await response.text()}`);
    }
    url = new URL(location, issuer).href;
    if (url.startsWith(redirectUri)) {
      return new URL(url).searchParams.get("code");
    }
  }
  throw new Error("the flow goes round in circles");
}

const code = { grant_type: "authorization_code", redirect_uri: redirectUri };
console.log(
  JSON.stringify({
    issuer,
    ...client,
    redirect_uri: redirectUri,
    native_secret: nativeSecret,
    jwks_url: `${issuer}/jwks`,
    token_url: `${issuer}/token`,
    access_token: await accessToken("RS256"),
    access_token_es256: await accessToken("ES256"),
    access_token_ps256: await accessToken("PS256"),
    id_token: (await token({ ...code, code: await authorize() })).id_token,
    code: await authorize(),
  }),
);
process.stdin.resume().on("end", () => process.exit(0));
