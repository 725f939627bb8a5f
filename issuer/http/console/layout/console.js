// The zone in which the server shows times and reads them: that of this browser.
const zone = encodeURIComponent(Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC")
if (!document.cookie.split("; ").includes(`zone=${zone}`)) {
  document.cookie = `zone=${zone}; path=/console; max-age=31536000; samesite=strict`
}

// A form with a file shows how much of it is sent. Without this script it is sent as any form is.
function sendWithProgress(form, button) {
  const request = new XMLHttpRequest()
  const line = document.createElement("p")
  const bar = document.createElement("progress")
  const text = document.createElement("span")
  line.className = "sending"
  line.setAttribute("role", "status")
  bar.setAttribute("aria-label", "Upload")
  line.append(text, bar)
  form.querySelector(".sending")?.remove()
  form.append(line)
  text.textContent = "Sending the file…"
  button.disabled = true
  const fail = (why) => {
    text.textContent = `${why} Nothing is lost: send it again.`
    bar.remove()
    button.disabled = false
  }
  request.upload.addEventListener("progress", (event) => {
    bar.max = event.total
    bar.value = event.loaded
  })
  request.upload.addEventListener("load", () => {
    bar.removeAttribute("value")
    text.textContent = "Checking and loading the codes…"
  })
  request.addEventListener("load", () => {
    const next = request.getResponseHeader("hx-redirect")
    if (next) {
      location.assign(next)
      return
    }
    const main = new DOMParser().parseFromString(request.responseText, "text/html").querySelector("main")
    if (!main) {
      fail("The server could not take the file.")
      return
    }
    document.querySelector("main").replaceWith(main)
    start(main)
    scrollTo(0, 0)
    main.querySelector("[autofocus], h1")?.focus()
  })
  request.addEventListener("error", () => fail("The server could not be reached."))
  request.open("POST", form.action)
  request.setRequestHeader("hx-request", "true")
  request.send(new FormData(form))
}

function start(root) {
  for (const form of root.querySelectorAll("form[data-upload]")) {
    form.addEventListener("submit", (event) => {
      event.preventDefault()
      sendWithProgress(form, event.submitter ?? form.querySelector("button"))
    })
  }
}
start(document)
