// A browser as far as signing in needs one: it opens the URL in its arguments, keeps cookies,
// follows redirects and submits forms, until a page has none. A code of the device flow, if there is
// one in its arguments, is entered where one is asked for, and confirmed, or with `abort` refused.
// It prints the page it ends on, as one line of JSON.

const [start, userCode, abort] = process.argv.slice(2);
const cookies = new Map();

/** Asks for one page, with the cookies of its host. */
async function ask(url, form) {
  const { host } = new URL(url);
  const own = cookies.get(host) ?? new Map();
  const response = await fetch(url, {
    method: form ? "POST" : "GET",
    body: form,
    headers: { cookie: [...own].map((pair) => pair.join("=")).join("; ") },
    redirect: "manual",
  });
  for (const line of response.headers.getSetCookie()) {
    const [pair] = line.split(";");
    const at = pair.indexOf("=");
    own.set(pair.slice(0, at), pair.slice(at + 1));
  }
  cookies.set(host, own);
  return { url, status: response.status, location: response.headers.get("location"), text: await response.text() };
}

function attribute(tag, name) {
  const value = new RegExp(`\\s${name}="([^"]*)"`).exec(tag)?.[1];
  return value?.replaceAll("&quot;", '"').replaceAll("&#39;", "'").replaceAll("&amp;", "&");
}

/** Returns where the first form of a page goes and what is in it. */
function filledForm(page) {
  const form = /<form[^>]*>([^]*?)<\/form>/.exec(page.text);
  if (!form) return undefined;
  const fields = new URLSearchParams();
  for (const [tag] of form[1].matchAll(/<input[^>]*>/g)) {
    const name = attribute(tag, "name");
    const value = name === "user_code" && userCode ? userCode : attribute(tag, "value");
    if (name) fields.set(name, value ?? "");
  }
  if (abort && fields.has("confirm")) {
    fields.delete("confirm");
    fields.set("abort", "yes");
  }
  return { url: new URL(attribute(form[0], "action") ?? page.url, page.url).href, fields };
}

let page = await ask(start);
for (let step = 0; step < 20; step += 1) {
  const form = filledForm(page);
  if (page.location) {
    page = await ask(new URL(page.location, page.url).href);
  } else if (form) {
    page = await ask(form.url, form.fields);
  } else {
    const { url, status, text } = page;
    console.log(JSON.stringify({ url, status, text }));
    process.exit(0);
  }
}
throw new Error("the pages have no end");
