"""What the page says, in English and Chinese: English stands in it, Chinese beside, and its script changes them."""

from __future__ import annotations

from html import escape

WORDS = {
    "What the rules dropped": "规则删去了什么",
    "What the rules changed": "规则改动了什么",
    "Near duplicates": "近似重复",
    "Repeated lines": "反复出现的行",
    "Found of evaluation texts": "发现的评测文本",
    "Common openings": "常见开头",
    "Lengths and characters": "长度与字符",
    "Sources": "来源",
    "A random sample": "随机样本",
    "How it was made": "制作过程",
    "{0} characters": "{0} 字",
    "characters in {0} documents": "字，共 {0} 篇文档",
    "documents by language": "各语言的文档",
    "of the characters stayed": "的字符留下了",
    "{0} of {1} characters": "{1} 字中留下 {0} 字",
    "{0} of {1} documents": "{1} 篇中留下 {0} 篇",
    "documents dropped, by reason": "删去的文档，按原因",
    "nothing was dropped": "没有删去任何文档",
    "documents": "文档",
    "documents that stayed": "留下的文档",
    "characters": "字符",
    "characters a document, mean": "每篇平均字数",
    "median": "中位数",
    "99 % are no longer": "99 % 的文档不超过此长度",
    "of the characters are Han": "的字符是汉字",
    "as they stayed": "留下后的样子",
    "as they came": "进来时的样子",
    "Documents as they stayed": "留下的文档",
    "Documents as they came": "进来的文档",
    "came": "进来",
    "stayed": "留下",
    "Documents by length": "文档长度分布",
    "at most so many characters": "不超过多少字",
    "Kinds of characters": "字符种类",
    "share of all": "占全部的比例",
    "Languages": "语言",
    "share of the documents": "占文档的比例",
    "none occurs twice": "没有出现两次的",
    "counted in {0} of {1}, chosen by hash": "在 {1} 中按哈希选出的 {0} 个里统计",
    "Han": "汉字",
    "Han, words of grammar": "汉字虚词",
    "Han, of wrong decoding": "乱码汉字",
    "Latin": "拉丁字母",
    "full-width letters, digits": "全角字母、数字",
    "other letters": "其他文字",
    "digits": "数字",
    "space": "空白",
    "punctuation": "标点",
    "symbols": "符号",
    "Latin-1": "Latin-1 字符",
    "broken": "损坏的字符",
    "combining marks": "组合符号",
    "Chinese": "中文",
    "Chinese and Latin": "中文与拉丁文字",
    "Latin script": "拉丁文字",
    "another script": "其他文字",
    "no letters": "没有文字",
    "source": "来源",
    "share": "占比",
    "documents stayed": "留下的文档",
    "characters stayed": "留下的字符",
    "{0} more": "其余 {0} 个",
    "and {0} more": "还有 {0} 个",
    "{0} documents · {1} characters": "{0} 篇 · {1} 字",
    "1 document · {1} characters": "1 篇 · {1} 字",
    "{0} documents · {1} characters less": "{0} 篇 · 少了 {1} 字",
    "{0} documents · {1} characters more": "{0} 篇 · 多了 {1} 字",
    "{0} documents · {1} characters less, {2} more": "{0} 篇 · 少了 {1} 字，多了 {2} 字",
    "{0} documents · as long as before": "{0} 篇 · 长度不变",
    "rule: {0}": "规则：{0}",
    "1 cluster, {1} documents in all; clusters by size:": "1 组，共 {1} 篇；各种大小的组数：",
    "{0} clusters, {1} documents in all; clusters by size:": "{0} 组，共 {1} 篇；各种大小的组数：",
    "{0} documents": "{0} 篇文档",
    "{0} to {1} documents": "{0} 至 {1} 篇文档",
    "this one stayed": "留下的是这一篇",
    "dropped for it": "因与它相似而删去",
    "{0} lines of {1} documents, {2} characters": "{1} 篇文档中的 {0} 行，共 {2} 字",
    "The most frequent": "最常见的",
    "evaluation text": "评测文本",
    "from character {0}": "从第 {0} 字起",
}
"""By what is said in English; `{0}`, `{1}` … are numbers or names."""


RULES = {
    "too short": "太短",
    "duplicate": "重复",
    "near duplicate": "近似重复",
    "contaminated": "含评测文本",
    "empty": "空的",
    "not chinese": "不是中文",
    "other language": "其他语言",
    "links": "链接太多",
    "menu": "菜单",
    "advertisement": "广告",
    "symbols": "符号太多",
    "digits": "数字太多",
    "unfinished": "没有写完",
    "mojibake": "乱码",
    "broken text": "文字损坏",
    "bullet lines": "列表行太多",
    "ellipsis lines": "省略号行太多",
    "few function words": "虚词太少",
    "perplexity": "不像好文本",
    "repeated lines": "行有重复",
    "repeated passages": "反复出现的段落",
    "repeated sequences": "片段有重复",
    "mask personal": "遮盖个人信息",
    "normalise lines": "统一换行与空白",
    "shorten runs": "缩短连续重复的字符",
    "finish sentence": "截到完整句子",
    "unescape": "还原转义字符",
}
"""Names of reasons and of rules that alter; one that is not here keeps its English."""


def named(name: str) -> str:
    """Make a piece of HTML that names a reason or a rule."""
    chinese = f' data-zh="{escape(RULES[name])}"' if name in RULES else ""
    return f"<span{chinese}>{escape(name)}</span>"


def said(english: str, *values: str) -> str:
    """Make a piece of HTML that says something of `WORDS`, its places filled with texts. Raises KeyError for others."""
    chinese = WORDS[english]
    return f'<span data-zh="{escape(chinese.format(*values))}">{escape(english.format(*values))}</span>'
