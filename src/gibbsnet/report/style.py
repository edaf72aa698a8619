"""How the page looks: light and dark, numbers in columns, pictures on cards; click a picture to enlarge it."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fbfbfa; --ink: #1f2328; --muted: #656d76; --rule: #e3e5e8; --card: #fff; --soft: #f2f3f5;
  --best: #e3f1ea; --best-ink: #0b6b43; --link: #2b5c9e; --warn: #fdf3dc; --warn-ink: #7a4d00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #16181b; --ink: #e4e6e9; --muted: #9aa2ab; --rule: #30343a; --card: #1d2024; --soft: #22262b;
    --best: #173527; --best-ink: #7fd6ab; --link: #8ab4ec; --warn: #372b12; --warn-ink: #edc673;
  }
  .card img { background: #fff; border-radius: 3px; }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 1rem; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", sans-serif;
}
main { max-width: 1320px; margin: 0 auto; padding: 3rem 2rem 5rem; }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -.02em; font-weight: 650; margin: 0 0 .75rem; }
h2 { font-size: 1.4rem; letter-spacing: -.01em; font-weight: 650; margin: 0 0 1rem; }
h3 {
  font-size: 1.02rem;
  font-weight: 600;
  margin: 2.2rem 0 .3rem;
  display: flex;
  flex-wrap: wrap;
  gap: .3rem 1.1rem;
}
p { max-width: 78ch; margin: 0 0 .9rem; }
a { color: var(--link); text-decoration: none; }
a:hover { text-decoration: underline; }
small { display: block; font-size: .76rem; font-weight: 400; color: var(--muted); }
section { margin-top: 3.2rem; padding-top: 2rem; border-top: 1px solid var(--rule); }
.lead { font-size: 1.04rem; }
.muted { color: var(--muted); }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; margin-top: 1.2rem; }
nav span { color: var(--muted); }

.short {
  background: var(--card);
  border: 1px solid var(--rule);
  border-radius: 8px;
  padding: 1.4rem 1.6rem 1rem;
  margin-top: 2rem;
}
.short h2 { margin-bottom: 0; }
.short h3 { margin-top: 1rem; }
.short ul { margin: .3rem 0 .6rem; padding-left: 1.1rem; }
.short li { margin: .3rem 0; }
.note { color: var(--warn-ink); }
.warning {
  background: var(--warn);
  color: var(--warn-ink);
  border-radius: 6px;
  padding: .6rem .9rem;
  max-width: none;
}

.scroll { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums lining-nums; }
th, td { padding: .38rem .75rem; vertical-align: top; white-space: nowrap; }
thead th { font-weight: 600; text-align: right; vertical-align: bottom; border-bottom: 1.5px solid var(--ink); }
thead th.reference { font-weight: 400; color: var(--muted); white-space: normal; line-height: 1.3; }
th.reference, td.reference { padding-left: .4rem; padding-right: .6rem; min-width: 4.3rem; }
tbody th { font-weight: 400; text-align: left; padding-left: 0; }
tbody th.section {
  font-weight: 600;
  padding-top: 1.2rem;
  font-size: .88rem;
  color: var(--muted);
  border-bottom: 1px solid var(--rule);
}
tbody tr:first-child th.section { padding-top: .7rem; }
td { text-align: right; border-bottom: 1px solid var(--rule); min-width: 6rem; }
tbody tr th[scope=row] { border-bottom: 1px solid var(--rule); min-width: 14.5rem; }
td.reference { color: var(--muted); }
@media (max-width: 1280px) { th.reference, td.reference { padding: .38rem .3rem; min-width: 3.4rem; } }
td.best { background: var(--best); color: var(--best-ink); font-weight: 650; }
td.best small { color: inherit; opacity: .8; }
.arrow { color: var(--muted); margin-left: .35em; }
.part { color: var(--muted); margin-left: .7em; font-size: .86rem; }
.dot { display: inline-block; width: .62em; height: .62em; border-radius: 50%; margin-right: .45em; }
.model { font-weight: 400; font-size: .9rem; }
table.plain td { text-align: left; }
table.plain .words { white-space: normal; }
.card + .scroll { margin-top: 1rem; }
table.trials th:first-child { text-align: left; padding-left: 0; }
table.trials th[scope=row] { min-width: 3rem; }
table.trials td { min-width: 4rem; }
table.trials .words { text-align: left; white-space: normal; min-width: 14rem; }

.card { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: .8rem; }
.card img { display: block; max-width: 100%; margin: 0 auto; cursor: zoom-in; outline-offset: 4px; }
.card.wide { padding: .6rem; background: #fff; }
.card.wide img { width: 100%; }
figcaption { font-size: .88rem; color: var(--muted); margin-bottom: .6rem; }
.pictures {
  display: grid;
  gap: 1rem;
  align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr));
}
.card img:focus {
  position: fixed; inset: 0; z-index: 9; margin: auto; max-width: none; width: auto; height: auto;
  min-width: min(92vw, 92vh); max-height: 94vh; background: #fff; outline: 100vmax solid #000b;
  outline-offset: 0; border-radius: 3px;
  object-fit: contain; cursor: zoom-out;
}
.card.wide img:focus { width: 96vw; }

.records > details { border-bottom: 1px solid var(--rule); padding: .4rem 0; }
.records > details > div { margin-left: 1rem; }
.records table { display: block; overflow-x: auto; margin: 0 0 1rem; font-size: .86rem; }
.records thead th { text-align: left; }
.records td { white-space: normal; min-width: 0; text-align: left; }
.records li { max-width: 78ch; }
.records .card { display: block; width: fit-content; max-width: 100%; }

details { margin: .5rem 0; }
summary { cursor: pointer; }
summary b { font-weight: 500; margin-right: 1rem; }
.run { border-bottom: 1px solid var(--rule); padding: .25rem 0 .5rem; }
.run > *:not(summary) { margin-left: 1rem; }
pre {
  font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
  background: var(--soft); border-radius: 6px; padding: .7rem .9rem; overflow-x: auto; margin: .6rem 0;
}
dl { display: grid; grid-template-columns: max-content 1fr; gap: .5rem 1.6rem; margin: 0; }
dt { font-weight: 500; }
dt:target { background: var(--best); }
dd { margin: 0; max-width: 78ch; color: var(--muted); }
@media (max-width: 640px) {
  main { padding: 1.5rem 1rem 3rem; }
  dl { grid-template-columns: 1fr; gap: .1rem; }
  dd { margin-bottom: .6rem; }
}
@media print { .card img { cursor: auto; } section { break-inside: auto; } }
"""
