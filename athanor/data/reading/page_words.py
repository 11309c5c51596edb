"""Words that say what a part of a page is: in the names of its classes and ids, and in its visible text.

The names are those that content management systems and page frameworks share (WordPress, Drupal, TYPO3, Joomla,
schema.org); the phrases are the furniture of German, English, French, Spanish, Italian, Portuguese, Dutch, Polish and
Chinese pages. None of them names a site.
"""

import re
from functools import lru_cache
from itertools import pairwise

# What an element's tag, class, id and role say about it; a sum of these.
FURNITURE = 1  # menus, teasers, forms: left out unless most of the page is in it
APART = 2  # comments, cookie notices: left out whenever something else remains
ARTICLE = 4  # named as the text of the page

SAYS = re.compile(r" (class|id|role|itemprop|property|style|hidden|aria-hidden)=\"([^\"]*)\"")
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
LONGEST_NAME = 100  # letters: a longer class is data
LETTERS = re.compile(r"[a-z]+")
# Whole words of a name, or two neighbouring words written with a hyphen ("authorBox", "author_box", "author-box").
FURNITURE_WORDS = frozenset(
    """sidebar side widget widgets widgetcontainer share shares sharing sharer sharebar shareblock social sociable
    socials cookie cookies consent gdpr breadcrumb breadcrumbs menu submenu nav navi navigation navbar topnav
    subnav footer footerwrap related relatedposts relatedarticles recommend recommended recommendation
    recommendations promo promos promotion advert adverts advertisement ad ads adv banner popup modal overlay
    newsletter subscribe subscription login signup register pager pagination pagenavi tag tags tagcloud taglist
    toolbar skip masthead rss print meta metadata postmeta postmetadata byline bylines dateline teaser teasers
    authorbox author-box author-bio author-info author-desc author-description author-container author-card
    author-profile author-about author-image about-author mini-bio bio authorbio saboxplugin caption captions
    legend credit credits copyright attribution paywall abo werbung anzeige anzeigen rating ratings like likes
    vote votes feedback more-links morelinks more-posts more-articles more-stories more-news more-info
    more-wrapper read-more readmore read-next next-story nextstory next-post next-article prev previous post-nav
    outbrain taboola sponsor sponsored partner popular trending most-read latest recent same-topic see-also also
    cta call-to disclosure disclaimer download downloads contactbox kontakt kontaktbox ansprechpartner autorbox
    autor-box autor-info empfehlung empfehlungen verwandte aehnliche weitere meistgelesen sitemap sr-only
    screen-reader visually-hidden visuallyhidden noprint noindex no-print tooltip dropdown carousel infobox
    linkbox tip-action telegram whatsapp listposts fb-post zobacz reklama publicidad publicite relacionadas
    relacionados relacionado relacionada citate appendix abowerbung""".split()
)
APART_WORDS = frozenset(
    """comment comments commentlist disqus respond kommentar kommentare commentaires comentarios reply replies replys
    cookie-notice cookie-banner cookie-bar cookie-law cookie-consent cookie-hint usercentrics cookiebot onetrust
    likes-other trackback trackbacks pingback pingbacks""".split()
)
ARTICLE_WORDS = frozenset(
    """article-body articlebody article-text article-content articlecontent article-main article-copy entry-content
    entry-body entry-text post-content post-body post-text story-content story-body story-text news-content
    news-text page-content page-text blog-content blog-text single-content body-content body-text text-content
    main-content main-text main-body entry story articletext fulltext prose bodytext artikeltext artikel-text
    artikel-inhalt name-body field-body hentry texte contenu texto nota cuerpo""".split()
)
# Names that hold such a word and mean something else: layouts, states and topics; the lead of an article.
MISLEADING = re.compile(
    r"(?:elementor|wp-block|post-template|type|status|category|tag|has|no|with|without|is|not|vc|col|wpb|et-pb|field)-.*|"
    r"(?:article-|news-|artikel-)?teaser-?(?:text|detail).*|.+-teaser|.*print-step|print-only|.*overflow-hidden|"
    r".*label-hidden|hide-.*"
)
FURNITURE_ROLES = frozenset("navigation banner contentinfo search complementary dialog alert menu menubar".split())
TAGS = dict.fromkeys("nav footer aside form dialog menu".split(), FURNITURE) | {"article": ARTICLE, "main": ARTICLE}


def role_of(tag: str, attributes: str) -> int:
    """What an element is, by its tag and the text of its attributes, serialised: ` name="value"` each."""
    role = TAGS.get(tag, 0)
    for key, value in SAYS.findall(attributes):
        if key in ("class", "id"):
            for name in value.split():
                role |= role_of_name(name) if len(name) < LONGEST_NAME else 0
        elif key == "role":
            role |= FURNITURE if value in FURNITURE_ROLES else 0
        elif key in ("itemprop", "property"):
            role |= ARTICLE if value.endswith("articleBody") else 0
        elif key == "style":
            role |= FURNITURE if "display:none" in value.replace(" ", "") else 0
        elif key == "hidden" or value == "true":
            role |= FURNITURE
    return role


@lru_cache(maxsize=1 << 16)
def role_of_name(name: str) -> int:
    """What one class or id says."""
    name = CAMEL.sub("-", name).replace("_", "-").lower()
    if name == "hidden":
        return FURNITURE
    words = LETTERS.findall(name)
    said = {*words, *map("-".join, pairwise(words))}
    if not ARTICLE_WORDS.isdisjoint(said):
        return ARTICLE
    if MISLEADING.fullmatch(name):
        return 0
    if not APART_WORDS.isdisjoint(said):
        return APART
    return 0 if FURNITURE_WORDS.isdisjoint(said) else FURNITURE


# What short blocks say. A label stands alone or before a colon or a stroke ("Foto: dpa"); a prompt asks for something
# and goes on for some words at most; a remark is the whole block.
LABELS = (
    "foto|fotos|bild|bilder|titelbild|beitragsbild|abbildung|photo|photos|image|images|picture|credits?|"
    "fotocredit|fotos? und text|bildquelle|bildnachweis|bildrechte|crédito|créditos|crédits?|fot|zdjęcie|"
    "photo credits?|image credits?|copyright|quelle|source|tags?|tagged|labels|kategorien?|categor(?:y|ies)|"
    "schlagw(?:ort|orte|örter)|stichworte|themen|temas|topics|filed under|posted in|mots[- ]clés|autor|autorin|"
    "author|autore|auteur|kontakt|contact|ansprechpartner(?:in)?|redaktion|weiterlesen|weitere informationen|"
    "mehr informationen|więcej informacji|lesezeit|reading time|来源|责任编辑|编辑|作者|标签|关键词"
)
PROMPTS = (
    # German
    "mehr zum thema|mehr dazu|mehr lesen|mehr erfahren|mehr aus|weitere (?:aktuelle )?(?:artikel|beiträge|"
    "themen|links|nachrichten|meldungen)|lesen sie (?:auch|mehr)|auch interessant|schon gelesen|lies auch|"
    "zum weiterlesen|weiterführende links?|das könnte (?:sie|dich|ihnen|dir|euch) auch|ähnliche (?:beiträge|"
    r"artikel|nachrichten|themen)|verwandte (?:artikel|beiträge|themen\w*)|neueste (?:artikel|beiträge)|"
    r"(?:letzte|neueste|keine|\d+) kommentare?|kommentar(?:e)? (?:schreiben|hinterlassen|verfassen|abgeben|"
    "geschlossen)|schreibe? einen kommentar|(?:diesen |den |die |diese )?(?:artikel|beitrag|seite) (?:teilen|"
    "drucken|empfehlen|weiterempfehlen|bewerten|mit anderen)|möchten sie (?:diesen|den) (?:artikel|beitrag)|"
    r"war (?:dieser|der|diese|die) (?:artikel|beitrag|seite|information\w*)|teilen (?:mit|auf|per|via)|"
    "nach oben|zurück (?:zur|zum)|newsletter|jetzt abonnieren|gefällt (?:mir|dir|ihnen) d|über (?:den|"
    r"die) autor|lust auf mehr|meistgelesen|am meisten gelesen|veröffentlicht (?:unter|am \d)|erstellt am|"
    "noch keine bewertung|dieser beitrag enthält werbung|folge uns|folgen sie uns|"
    # English
    "related (?:posts?|articles?|stories|topics|links|content|reading)|you (?:might|may) also|read (?:more|"
    r"next|also|further in)|more (?:from|stories|articles|posts)|leave a (?:comment|reply)|(?:view |no |\d+ |"
    "post a )comments?|comments are closed|share (?:this|on|via|with)|email this|print this|follow (?:us|"
    "me) on|sign up (?:for|to) (?:our|the|my)|subscribe (?:to (?:our|the|my)|now)|about the author|back to top|"
    "skip to|(?:next|previous) (?:post|article|story)|all rights reserved|if you (?:liked|enjoyed)|"
    "photo(?:graph)? by|image (?:by|via)|photo via|posted (?:by|on)|published (?:by|on)|be sociable|"
    "stay up[- ]to[- ]date|"
    # French, Spanish, Portuguese, Italian, Dutch, Polish
    "à (?:lire|voir|découvrir) (?:aussi|également)|à découvrir|lire (?:aussi|la suite)|voir aussi|"
    "articles? (?:liés?|similaires?)|sur le même (?:sujet|thème)|partager (?:sur|cet)|laisser un commentaire|"
    "abonnez|publié le|(?:notas|noticias|artículos|temas) relacionad[ao]s|te puede interesar|lea (?:también|"
    "además)|leer más|compartir|s[ií]guenos|leia (?:também|mais)|compartilhe|leggi anche|condividi|"
    "potrebbe interessarti|articoli correlati|pubblicato il|lees (?:ook|meer)|zobacz (?:także|też|również)|"
    "czytaj (?:także|też|również|więcej)|inne artykuły|udostępnij|podziel się|materiał chroniony|"
    # Chinese
    "相关(?:阅读|链接|新闻|推荐|文章)|分享到|关注(?:我们|微信|公众号)|上一篇|下一篇|版权声明|推荐阅读|延伸阅读"
)
REMARKS = (
    "werbung|anzeige|reklama|publicidad|publicidade|publicité|advertisement|promo|sponsored|kommentare?|"
    "commentaires?|comments?|komentarze|reacties|replies|teilen|drucken|share|tweet|like this|subscribe|print|"
    r"partager|delen|zurück|loading|log ?in|see also|recommended|打印|字号|更多|热门|\d+ (?:min|minutes?|"
    "minuten) (?:read|lesezeit|de lecture)"
)
PHRASE = re.compile(
    rf"(?:{LABELS})\s*(?:[:：/©|].*|\W*)|(?:{PROMPTS})(?![a-zà-ÿ])[^.]{{0,80}}[.!?…]*|(?:{REMARKS})\W*|\W*©.*",
    re.DOTALL,
)
LONGEST_PHRASE = 120  # letters: furniture is short


def is_furniture_phrase(text: str) -> bool:
    """Whether a block's own words say that it is not part of the text: "Leave a comment", "Foto: …"."""
    return len(text) <= LONGEST_PHRASE and PHRASE.fullmatch(text.lower().lstrip("(»›→*[-–•|# ")) is not None
