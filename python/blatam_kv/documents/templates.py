"""The eleven types of document and the ten areas, in Spanish and English: names and sections.

A template says which sections a document of its type has, in which order. What stands in them is the
model's; nothing here is ever printed but names and headings. The headings are those that the
embedded model learnt (``training/``), so that it, too, knows what belongs under each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blatam_kv.documents.languages import primary
from blatam_kv.errors import InvalidRequest

# Part of every answer's digest: a change of sections makes other documents.
VERSION = 1


@dataclass(frozen=True, slots=True)
class Template:
    """One type in one language. label: its name as printed; sections: its headings, in order."""

    label: str
    sections: tuple[str, ...]


_SPANISH = """
business_plan: Plan de negocio: Resumen ejecutivo | Análisis del mercado | Propuesta de valor |
    Plan operativo | Plan financiero | Riesgos y respuestas | Próximos pasos
marketing_strategy: Estrategia de marketing: Resumen | Público objetivo | Objetivos |
    Canales y mensajes | Calendario | Indicadores | Próximos pasos
sales_proposal: Propuesta comercial: Presentación | Necesidades detectadas | Nuestra solución |
    Beneficios para el cliente | Condiciones económicas | Aceptación y próximos pasos
operational_manual: Manual de operaciones: Objeto y alcance | Responsabilidades | Procedimiento |
    Control de calidad | Incidencias frecuentes | Revisión del manual
hr_policy: Política de recursos humanos: Objeto y alcance | Principios generales |
    Normas de aplicación | Derechos y deberes | Responsabilidades | Entrada en vigor
financial_report: Informe financiero: Resumen del periodo | Resultados | Indicadores principales |
    Previsión | Riesgos financieros | Recomendaciones
legal_contract: Contrato: Partes | Objeto del contrato | Obligaciones de las partes |
    Precio y forma de pago | Confidencialidad y datos | Duración y resolución | Ley aplicable
technical_specification: Especificación técnica: Objeto y alcance | Arquitectura | Requisitos |
    Pruebas y aceptación | Niveles de servicio | Riesgos técnicos | Entrega
content_strategy: Estrategia de contenidos: Resumen | Lectores | Formatos y canales |
    Calendario editorial | Objetivos | Medición | Próximos pasos
strategic_plan: Plan estratégico: Resumen ejecutivo | Diagnóstico | Objetivos estratégicos |
    Iniciativas | Hoja de ruta | Cuadro de mando | Conclusión
customer_service_guide: Guía de atención al cliente: Objeto de la guía | Principios de atención |
    Protocolo de atención | Preguntas frecuentes | Reclamaciones | Calidad del servicio |
    Mejora continua
"""
_ENGLISH = """
business_plan: Business plan: Executive summary | Market analysis | Value proposition |
    Operating plan | Financial plan | Risks and responses | Next steps
marketing_strategy: Marketing strategy: Summary | Target audience | Objectives |
    Channels and messages | Timeline | Indicators | Next steps
sales_proposal: Sales proposal: Introduction | Identified needs | Our solution |
    Benefits for the customer | Commercial terms | Acceptance and next steps
operational_manual: Operations manual: Purpose and scope | Responsibilities | Procedure |
    Quality control | Common incidents | Review of the manual
hr_policy: HR policy: Purpose and scope | General principles | Rules | Rights and duties |
    Responsibilities | Entry into force
financial_report: Financial report: Summary of the period | Results | Key indicators | Forecast |
    Financial risks | Recommendations
legal_contract: Contract: Parties | Purpose of the contract | Obligations of the parties |
    Price and payment | Confidentiality and data | Term and termination | Governing law
technical_specification: Technical specification: Purpose and scope | Architecture |
    Requirements | Testing and acceptance | Service levels | Technical risks | Delivery
content_strategy: Content strategy: Summary | Readers | Formats and channels |
    Editorial calendar | Objectives | Measurement | Next steps
strategic_plan: Strategic plan: Executive summary | Diagnosis | Strategic objectives |
    Initiatives | Roadmap | Scorecard | Conclusion
customer_service_guide: Customer service guide: Purpose of the guide | Service principles |
    Service protocol | Frequent questions | Complaints | Service quality |
    Continuous improvement
"""
_AREAS = {
    "marketing": ("Marketing", "Marketing"),
    "sales": ("Ventas", "Sales"),
    "operations": ("Operaciones", "Operations"),
    "hr": ("Recursos humanos", "Human resources"),
    "finance": ("Finanzas", "Finance"),
    "legal": ("Asuntos legales", "Legal"),
    "technical": ("Área técnica", "Technical"),
    "content": ("Contenidos", "Content"),
    "strategy": ("Estrategia", "Strategy"),
    "customer_service": ("Atención al cliente", "Customer service"),
}


def _read(text: str) -> dict[str, Template]:
    found = {}
    for line in text.strip().replace("\n    ", " ").split("\n"):
        name, label, sections = line.split(": ", 2)
        found[name] = Template(label, tuple(each.strip() for each in sections.split("|")))
    return found


TEMPLATES: Mapping[str, Mapping[str, Template]] = {"es": _read(_SPANISH), "en": _read(_ENGLISH)}
AREAS: Mapping[str, Mapping[str, str]] = {
    "es": {name: labels[0] for name, labels in _AREAS.items()},
    "en": {name: labels[1] for name, labels in _AREAS.items()},
}


def template(document_type: str, language: str) -> Template:
    """The template of a type. Raises InvalidRequest, listing the types, for another."""
    known: Mapping[str, Template] = _of(TEMPLATES, language)
    if document_type not in known:
        raise InvalidRequest(
            f"{document_type!r} is not one of {', '.join(known)}", field="document_type"
        )
    return known[document_type]


def kind_words(document_type: str, area: str, language: str) -> tuple[str, ...]:
    """The names of type and area as printed; a type or area without a template has its own name."""
    types, areas = _of(TEMPLATES, language), _of(AREAS, language)
    kind = types[document_type].label if document_type in types else document_type
    place = areas.get(area, area)
    words = [text.replace("_", " ") for text in (kind, place) if text]
    return tuple(dict.fromkeys(words))


# Any: of templates or of names, by language.
def _of(table: Mapping[str, Any], language: str) -> Any:
    return table["es" if primary(language) == "es" else "en"]
