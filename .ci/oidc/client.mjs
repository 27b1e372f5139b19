// A client that was not written for it (openid-client) signs in with the OpenID provider in its
// arguments: by redirect, by form and on another device. It checks everything that it can check,
// signatures with the provider's keys included, and prints what it got as one line of JSON.

import * as client from "openid-client";

const [issuer, clientId] = process.argv.slice(2);
const redirectUri = "http://127.0.0.1:9/callback";
const scope = "openid email profile";

const options = { execute: [client.allowInsecureRequests, client.enableNonRepudiationChecks] };
const discover = (authentication) =>
  client.discovery(new URL(issuer), clientId, undefined, authentication, options);

/** Signs in as somebody, and returns the URL to which the browser is sent, with what it is sent. */
async function browse(url, form) {
  const response = await fetch(url, {
    method: "POST",
    body: new URLSearchParams(form),
    redirect: "manual",
  });
  if (response.status === 303) return new URL(response.headers.get("location"));
  const page = await response.text();
  if (response.status !== 200) throw new Error(page);
  const target = /action="([^"]*)"/.exec(page)[1];
  const fields = [...page.matchAll(/name="([^"]*)" value="([^"]*)"/g)].map((match) => match.slice(1));
  const body = new URLSearchParams(fields);
  return new Request(target, { method: "POST", body });
}

async function signIn(config, form, more) {
  const verifier = client.randomPKCECodeVerifier();
  const [state, nonce] = [client.randomState(), client.randomNonce()];
  const url = client.buildAuthorizationUrl(config, {
    redirect_uri: redirectUri,
    scope,
    state,
    nonce,
    code_challenge: await client.calculatePKCECodeChallenge(verifier),
    code_challenge_method: "S256",
    ...more,
  });
  const response = await browse(url, form);
  const tokens = await client.authorizationCodeGrant(config, response, {
    pkceCodeVerifier: verifier,
    expectedState: state,
    expectedNonce: nonce,
    idTokenExpected: true,
  });
  const claims = tokens.claims();
  const info = await client.fetchUserInfo(config, tokens.access_token, claims.sub);
  return { id_token: tokens.id_token, claims, info };
}

async function device(config) {
  const started = await client.initiateDeviceAuthorization(config, { scope });
  const page = await fetch(started.verification_uri_complete);
  const user_code = /name="user_code" value="([^"]*)"/.exec(await page.text())[1];
  if (user_code !== started.user_code) throw new Error(user_code);
  const body = new URLSearchParams({ user_code, name: "Ada Lovelace" });
  const entered = await fetch(started.verification_uri, { method: "POST", body });
  if (!entered.ok) throw new Error(await entered.text());
  const tokens = await client.pollDeviceAuthorizationGrant(config, started);
  return { id_token: tokens.id_token, claims: tokens.claims() };
}

const config = await discover(client.None());
const ada = { name: "Ada Lovelace" };
const refused = await signIn(config, { refuse: "yes" }, {}).then(
  () => undefined,
  (error) => error.error,
);
console.log(
  JSON.stringify({
    by_redirect: await signIn(config, ada, {}),
    by_form: await signIn(config, ada, { response_mode: "form_post" }),
    with_secret: await signIn(await discover(client.ClientSecretBasic("s:e c")), ada, {}),
    on_device: await device(config),
    refused,
  }),
);
