// Draws each section with data-series: what was issued and what was refused, each minute.
const answered = new Set(["granted", "replayed", "usable"])
const steps = { "15m": 30_000, "24h": 60_000, "30d": 600_000 }

function columns(series) {
  const granted = series.outcomes.granted
  const begins = Date.parse(series.begins_at) / 1000
  const refused = granted.map((_, i) => Object.entries(series.outcomes)
    .reduce((sum, [name, counts]) => sum + (answered.has(name) ? 0 : counts[i]), 0))
  const perMinute = 60 / series.step_seconds
  // The present step is not over: it would look like a fall.
  const drawn = (values) => values.slice(0, -1)
  return {
    granted, refused,
    data: [granted.map((_, i) => begins + i * series.step_seconds), granted.map((n) => n * perMinute), refused.map((n) => n * perMinute)].map(drawn),
  }
}

const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" })
const time = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" })
const showTime = (seconds) => {
  const at = new Date(seconds * 1000)
  return at.getHours() || at.getMinutes() ? time.format(at) : day.format(at)
}

function options(width) {
  const style = getComputedStyle(document.documentElement)
  const color = (name) => style.getPropertyValue(name).trim()
  const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" }
  const line = (label, name, fill) => ({ label, stroke: color(name), width: 2, fill, points: { show: false }, value: (_, n) => n == null ? "–" : n.toLocaleString("en", { maximumFractionDigits: 1 }) })
  return {
    width, height: 220, cursor: { y: false, points: { size: 6 } },
    axes: [{ ...axis, values: (_, ticks) => ticks.map(showTime) }, { ...axis, size: 56, values: (_, ticks) => ticks.map((n) => n.toLocaleString("en")) }],
    scales: { y: { range: (_, low, high) => [0, Math.max(high * 1.1, 1)] } },
    series: [{ label: "Time", value: (_, at) => at == null ? "–" : new Date(at * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }) }, line("Issued each minute", "--accent"), line("Refused each minute", "--warn")],
  }
}

function start(section) {
  const plot = section.querySelector("[data-plot]")
  const sum = section.querySelector("[data-sum]")
  let span = "24h"
  let chart
  let timer
  const draw = async () => {
    clearTimeout(timer)
    const asked = span
    try {
      const answer = await fetch(`${section.dataset.series}?span=${asked}`)
      if (answer.redirected) {
        // Signed out: the page itself leads to the sign-in, and back.
        location.reload()
        return
      }
      if (!answer.ok) throw new Error(answer.statusText)
      const { granted, refused, data } = columns(await answer.json())
      if (asked !== span) return
      const total = (counts) => counts.reduce((a, b) => a + b, 0).toLocaleString("en")
      sum.textContent = `${total(granted)} issued, ${total(refused)} refused.`
      section.hidden = false
      if (chart) chart.setData(data)
      else chart = new uPlot(options(plot.clientWidth), data, plot)
    } catch {
      sum.textContent = "The series could not be read. Trying again."
      section.hidden = false
    }
    timer = setTimeout(draw, steps[span])
  }
  for (const button of section.querySelectorAll("[data-span]")) {
    button.addEventListener("click", () => {
      span = button.dataset.span
      for (const other of section.querySelectorAll("[data-span]")) other.setAttribute("aria-pressed", other === button)
      draw()
    })
  }
  new ResizeObserver(() => chart?.setSize({ width: plot.clientWidth, height: 220 })).observe(plot)
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    chart?.destroy()
    chart = undefined
    plot.replaceChildren()
    draw()
  })
  draw()
}
document.querySelectorAll("[data-series]").forEach(start)
