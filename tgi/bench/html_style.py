"""The style of the HTML report: light and dark by the reader's own choice, and fit to be printed."""

STYLE = """
:root{color-scheme:light dark;--bg:#fbfbfc;--card:#fff;--ink:#1b1f24;--soft:#59636e;--edge:#dfe3e8;--grid:#e9ecf0;
--track:#eef1f4;--good:#1a7f37;--warn:#9a6700;--bad:#cf222e;--c0:#2563c9;--c1:#d1570a;--c2:#1f8a4c;--c3:#a03bb8;
--c4:#0f8a9d;--c5:#c2255c;--c6:#7a6a00;--c7:#5b5fc7}
@media(prefers-color-scheme:dark){:root{--bg:#0f1216;--card:#171b21;--ink:#e6e9ed;--soft:#9aa5b1;--edge:#2b323b;
--grid:#252b33;--track:#222831;--good:#4ac26b;--warn:#e0b13a;--bad:#ff7b72;--c0:#6ea8ff;--c1:#ff9d57;--c2:#5fd08a;
--c3:#d78cf0;--c4:#4fc9dc;--c5:#ff7fab;--c6:#d6c24a;--c7:#a3a6ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
header,main,footer{max-width:1180px;margin:0 auto;padding:0 24px}
header{padding-top:36px}
h1{font-size:26px;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:19px;margin:44px 0 14px;padding-bottom:6px;border-bottom:1px solid var(--edge)}
h3{font-size:15px;margin:26px 0 8px}
p{margin:6px 0}
.soft,footer{color:var(--soft)}
.verdict{margin:18px 0 0;padding:12px 16px;border-left:4px solid var(--c0);background:var(--card);font-weight:600}
.warning{border-left-color:var(--warn)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(160px,1fr));gap:12px;margin:22px 0 0;padding:0;
list-style:none}
.cards li{background:var(--card);border:1px solid var(--edge);border-radius:8px;padding:12px 16px}
.cards b{display:block;font-size:25px;line-height:1.25;font-variant-numeric:tabular-nums}
.cards small{font-size:13px;font-weight:400;color:var(--soft)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:16px}
.charts.three{grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr))}
figure{margin:0;background:var(--card);border:1px solid var(--edge);border-radius:8px;padding:14px 16px 10px;
min-width:0}
figcaption{font-weight:600;margin-bottom:6px}
svg.chart{display:block;width:100%;max-width:660px;height:auto;margin:0 auto;overflow:visible}
svg text{fill:var(--ink);font-size:12px;font-family:inherit}
svg .tick,svg .axis{fill:var(--soft);font-variant-numeric:tabular-nums}
svg .value{font-weight:600;font-variant-numeric:tabular-nums}
svg .name{font-size:11.5px}
svg .middle{text-anchor:middle}
svg .end{text-anchor:end}
svg .grid{stroke:var(--grid);fill:none}
svg .roof{stroke:var(--soft);stroke-dasharray:4 3;fill:none}
svg .track{fill:var(--track)}
svg .line{fill:none;stroke-width:2;stroke-linejoin:round}
svg .dot{stroke:var(--card);stroke-width:1.5}
svg .dot:hover{stroke:var(--ink)}
svg .bar{fill:var(--c0)}
svg .bar:hover{fill:var(--c1)}
svg .p50 path,svg .p90 path,svg .p99 path{fill:none;stroke-width:1.5;stroke-dasharray:3 2}
svg .p50 path{stroke:var(--good)} svg .p90 path{stroke:var(--warn)} svg .p99 path{stroke:var(--bad)}
svg .p50 text{fill:var(--good)} svg .p90 text{fill:var(--warn)} svg .p99 text{fill:var(--bad)}
svg .span{stroke-width:3;stroke-linecap:round;fill:none}
svg .better .span{stroke:var(--good)} svg .better circle{fill:var(--good)}
svg .worse .span{stroke:var(--bad)} svg .worse circle{fill:var(--bad)}
svg .even .span{stroke:var(--soft)} svg .even circle{fill:var(--soft)}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;list-style:none;margin:6px 0 2px;padding:0;font-size:13px}
.legend svg{width:22px;height:10px;margin-right:6px}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--edge);border-radius:8px;margin:12px 0}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:12px 16px 6px}
th,td{padding:6px 12px;text-align:right;white-space:nowrap;border-top:1px solid var(--edge)}
thead th{color:var(--soft);font-weight:500;border-top:0}
thead th{white-space:normal}
th:first-child,td:first-child{text-align:left;padding-left:16px}
th.t,td.t{text-align:left}
tbody th{font-weight:500}
.words td,.words th{text-align:left;white-space:normal;overflow-wrap:anywhere}
.words tbody th{width:190px;vertical-align:top;color:var(--soft);white-space:nowrap}
tbody tr:hover{background:var(--track)}
pre{margin:0;font:13px/1.5 ui-monospace,"Cascadia Mono",Menlo,Consolas,monospace;white-space:pre-wrap;
overflow-wrap:anywhere}
details{margin:12px 0}
summary{cursor:pointer;font-weight:600;padding:6px 0}
footer{padding-top:34px;padding-bottom:34px;font-size:13px}
@media(max-width:600px){header,main,footer{padding-left:14px;padding-right:14px}th,td{padding:6px 10px}
.words tbody th{width:auto;white-space:normal}}
@media print{body{background:#fff}figure,.cards li,.scroll{break-inside:avoid}}
"""
