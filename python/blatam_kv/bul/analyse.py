"""What a query says about itself: its language and the type of document it asks for.

Plain counting of words, no model. A guess is only used where the request does not say, and the
answer names what was guessed.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

DEFAULT_LANGUAGE = "es"
DEFAULT_TYPE = "business_plan"

# What is asked for is said at the beginning; reading on would only cost a long query time.
_READ_CHARS = 2000

_SPANISH_WORDS = """
    al como con cual cuando de del desde donde el ella en entre es esta este hacia hasta la las lo
    los mas mi muy nuestra nuestro o para pero por que quiero se sin sobre su sus tambien un una
    unos y ya
"""
_ENGLISH_WORDS = """
    about an and are as at be but by can for from have how i in into is it my of on or our please
    should that the their this to want we what when which who will with write you your
"""
_SPANISH = frozenset(_SPANISH_WORDS.split())
_ENGLISH = frozenset(_ENGLISH_WORDS.split())

# Beginnings of words or phrases, without accents. The longest evidence wins, so that
# "plan de marketing" is marketing although it is also a plan.
_STEMS: dict[str, tuple[str, ...]] = {
    "business_plan": (
        *("plan de negocio", "modelo de negocio", "plan de empresa"),
        *("business plan", "business model", "business case", "company plan"),
        *("emprend", "startup", "abrir un", "open a"),
    ),
    "marketing_strategy": (
        *("estrategia de marketing", "plan de marketing", "marketing", "campana", "campaign"),
        *("publicidad", "advertis", "lanzamiento", "launch", "marca", "brand", "promocion"),
    ),
    "sales_proposal": (
        *("propuesta de venta", "propuesta comercial", "sales proposal", "propuesta", "proposal"),
        *("cotizacion", "quotation", "oferta comercial", "ventas", "sales"),
    ),
    "operational_manual": (
        *("manual de operacion", "manual operativo", "operations manual", "operational manual"),
        *("manual", "procedimiento", "procedure", "operaciones", "operations", "logistic"),
    ),
    "hr_policy": (
        *("politica de recursos humanos", "recursos humanos", "human resources", "hr policy"),
        *("teletrabajo", "remote work", "vacacion", "vacation", "empleado", "employee"),
        *("politica", "policy", "contratacion de personal", "recruit", "onboarding"),
    ),
    "financial_report": (
        *("informe financiero", "financial report", "presupuesto", "budget", "financ", "econom"),
        *("flujo de caja", "cash flow", "balance", "ingresos", "revenue", "trimestr", "quarter"),
    ),
    "legal_contract": (
        *("contrato", "contract", "acuerdo de confidencialidad", "non-disclosure", "agreement"),
        *("clausula", "clause", "arrendamiento", "lease", "legal", "acuerdo"),
    ),
    "technical_specification": (
        *("especificacion tecnica", "technical specification", "especificacion", "specification"),
        *("requisitos", "requirements", "software", "tecnic", "data sheet"),
        "technical",
    ),
    "content_strategy": (
        *("estrategia de contenido", "content strategy", "contenido", "content", "blog"),
        *("redes sociales", "social media", "newsletter", "boletin", "calendario editorial"),
        *("plan editorial", "editorial plan", "editorial calendar"),
    ),
    "strategic_plan": (
        *("plan estrategico", "strategic plan", "estrategi", "strateg", "expansion", "crecimiento"),
        *("growth", "largo plazo", "long term", "long-term", "hoja de ruta", "roadmap"),
    ),
    "customer_service_guide": (
        *("atencion al cliente", "servicio al cliente", "customer service", "customer support"),
        *("protocolo de atencion", "service protocol", "customer care"),
        *("reclamacion", "complaint", "queja", "devolucion", "refund", "returns", "soporte"),
    ),
}

AREA_OF_TYPE = {
    "business_plan": "strategy",
    "marketing_strategy": "marketing",
    "sales_proposal": "sales",
    "operational_manual": "operations",
    "hr_policy": "hr",
    "financial_report": "finance",
    "legal_contract": "legal",
    "technical_specification": "technical",
    "content_strategy": "content",
    "strategic_plan": "strategy",
    "customer_service_guide": "customer_service",
}


def language(text: str) -> str:
    """``es`` or ``en`` by common words and Spanish letters; ``es`` when nothing tells."""
    text = text[:_READ_CHARS]
    words = re.findall(r"[^\W\d_]+", _plain(text))
    spanish = sum(word in _SPANISH for word in words) + len(re.findall("[áéíóúñ¿¡]", text))
    english = sum(word in _ENGLISH for word in words)
    return "en" if english > spanish else DEFAULT_LANGUAGE


def document_type(text: str) -> str | None:
    """The type whose words the text uses most (by letters matched); None when it uses none."""
    pattern, owners = _evidence()
    scores = dict.fromkeys(_STEMS, 0)
    for stem in set(pattern.findall(_plain(text[:_READ_CHARS]))):
        scores[owners[stem]] += len(stem)
    best = max(scores, key=lambda kind: scores[kind])
    return best if scores[best] else None


@cache
def _evidence() -> tuple[re.Pattern[str], dict[str, str]]:
    """One expression for all stems, the longest tried first, and the type each speaks for."""
    owners = {stem: kind for kind, stems in _STEMS.items() for stem in stems}
    longest_first = sorted(owners, key=len, reverse=True)
    return re.compile(r"\b(?:" + "|".join(map(re.escape, longest_first)) + ")"), owners


def type_of_area(area: str) -> str:
    """The document an area asks for most."""
    return next(kind for kind, home in AREA_OF_TYPE.items() if home == area)


def _plain(text: str) -> str:
    """Lower case, without accents."""
    return re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFD", text.casefold()))
