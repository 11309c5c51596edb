"""Lines that belong to a web site and not to the text: menus, cookie notices, editors' signatures, English and Chinese.

For text that was taken from pages without their markup (Common Crawl's WET files, scraped rows). A line goes when it is
short and says itself what it is; where markup is at hand, `athanor.data.reading.html` knows more.
"""

import re

from athanor.data.reading.page_words import is_furniture_phrase

LONGEST = 160  # letters: a longer line is a paragraph, whatever it begins with
MARKS = " \t\u3000*•·-–>»|"
# Whole lines, in lower case: menus, invitations and notices by how they begin.
MENU = (
    "terms of use|terms of service|terms and conditions|privacy|privacy policy|cookie policy|sitemap|site map|about us|"
    "contact us|help|faq|home|menu|search|sign in|sign up|log ?in|log ?out|register|my account|cart|checkout|reply|"
    "report|flag|quote|permalink|edit|delete|prev|previous|next|last"
)
CHINESE_MENU = (
    "打印|打印本页|打印此文|关闭|关闭窗口|关闭本页|收藏|收藏本页|收藏本站|返回|返回顶部|返回首页|返回列表|设为首页|加入收藏|"
    "网站地图|联系我们|关于我们|首页|登录|注册|我要评论|发表评论|查看更多|加载更多|点击查看|点击查看更多|展开全文|阅读全文|阅读原文|"
    "分享|举报|点赞|评论|下一页|上一页|尾页|末页"
)
NETWORKS = (
    "(?:facebook|twitter|instagram|pinterest|linkedin|youtube|whatsapp|reddit|tumblr|email|print|微博|微信|qq空间)"
)
BEGINS = re.compile(
    rf"{NETWORKS}(?:[ ,|/·]+{NETWORKS})+\W*|"
    rf"(?:{MENU})(?: ?[|·•/›>»-] ?[\w ]{{1,30}})*[^\w,]*|"
    rf"(?:{CHINESE_MENU})(?:[ |｜丨>＞·/　]+[\u4e00-\u9fff]{{1,6}})*\W*|"
    r"(?:we|this (?:web)?site|our (?:web)?site) uses? cookies.*|(?:accept|manage|reject)(?: all)? cookies\W*|"
    r"(?:please )?enable javascript.*|(?:click|tap) here to .{0,80}|(?:(?:copyright|\(c\)|©)[ ,]*)+\d{4}.*|"
    r"powered by [\w .]{1,40}|download (?:the|our) app\b.{0,60}|(?:like|find|follow) us on .{0,60}|"
    r"(?:get|receive) (?:our|the) (?:latest|best|free)\b.{0,80}(?:newsletter|inbox|updates)\W*|"
    r"you must be logged in to .{0,60}|page \d+ of \d+\W*|\d+ (?:views?|shares?)\W*|"
    r"[（(\[【]?\s*(?:责任编辑|责编|编辑|作者|来源|稿源|文章来源|信息来源|原标题|标签|关键词|发布时间|发布日期|浏览次数|点击数?|"
    r"阅读量?|点赞数?|校对|审核|记者|通讯员)\s*[:：].{0,60}|字[体号]\s*[:：]?\s*[【\[]?\s*[大中小特超 |｜、]+[】\]]?|"
    r"(?:当前位置|您?(?:现在)?的位置)\s*[:：].{0,80}|(?:上|下)一[篇条页]\s*[:：]?.{0,80}|"
    r"(?:免责声明|版权声明|特别声明)\s*[:：].{0,150}|(?:客服|服务|投诉|举报)(?:热线|电话)\s*[:：].{0,60}"
)
# And by what they hold; looked for only where one of these stands in the line.
HINTS = (
    "cookie",
    "javascript",
    "all rights reserved",
    "转载",
    "未经",
    "版权",
    "侵权",
    "扫",
    "二维码",
    "关注",
    "icp",
    "公网安备",
)
HOLDS = re.compile(
    r".{0,40}\b(?:cookie|privacy) (?:policy|settings|preferences)\W*|"
    r"by (?:continuing|using|browsing).{0,60}\bcookies\b.*|"
    r".{0,40}javascript (?:is )?(?:disabled|required|must be enabled).*|.{0,80}all rights reserved\W*|"
    r".{0,40}(?:转载请注明|未经.{0,12}(?:授权|许可|同意).{0,12}(?:不得|禁止|请勿)|严禁转载|版权所有|侵权必究).{0,60}|"
    r".{0,30}(?:扫一扫|扫描(?:上方|下方)?二维码|扫码|长按.{0,8}二维码).{0,40}|"
    r".{0,30}(?:关注|搜索).{0,16}(?:微信|公众号|官方微博|客户端).{0,40}|.{0,60}icp[备证]\s*\d+.{0,40}|"
    r".{0,20}公网安备\s*\d+.{0,20}"
)
CODE = re.compile(r"[\w\"')\]]\(|[{}=;]|:$")  # a call, an assignment, or what announces the next line


def is_boilerplate(line: str) -> bool:
    """Whether a line says of itself that it belongs to the site; a heading or a line of a program never does."""
    line = line.strip(MARKS)
    if not line or len(line) > LONGEST or line[0] == "#":
        return False
    said = line.lower()
    found = BEGINS.fullmatch(said) or (any(hint in said for hint in HINTS) and HOLDS.fullmatch(said))
    return bool(found or is_furniture_phrase(line)) and CODE.search(line) is None


def drop_boilerplate(text: str) -> tuple[str, int]:
    """(the text without such lines, how many there were)."""
    lines = text.split("\n")
    kept = [line for line in lines if not is_boilerplate(line)]
    return "\n".join(kept), len(lines) - len(kept)
