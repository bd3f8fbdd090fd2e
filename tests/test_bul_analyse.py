"""What queries say about themselves, on queries as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blatam_kv.bul import analyse
from blatam_kv.truthgpt.brief import AREAS, DOCUMENT_TYPES, LANGUAGES

QUERIES = [
    ("es", "business_plan", "Plan de negocio para una panadería en Valencia"),
    ("en", "business_plan", "I want a business plan for my bakery"),
    ("es", "marketing_strategy", "Campaña de publicidad para el lanzamiento de un zumo"),
    ("en", "marketing_strategy", "Marketing strategy for the launch of our app"),
    ("es", "marketing_strategy", "Plan de marketing de una clínica"),
    ("es", "sales_proposal", "Propuesta comercial de paneles solares"),
    ("en", "sales_proposal", "A sales proposal for a fleet of electric vans"),
    ("es", "operational_manual", "Manual de operaciones del almacén"),
    ("en", "operational_manual", "Operations manual for the night shift"),
    ("es", "hr_policy", "Política de vacaciones de los empleados"),
    ("en", "hr_policy", "Remote work policy for our employees"),
    ("es", "financial_report", "Informe financiero del segundo trimestre"),
    ("en", "financial_report", "Quarterly financial report with cash flow"),
    ("es", "legal_contract", "Contrato de alquiler de una nave"),
    ("en", "legal_contract", "A non-disclosure agreement with our supplier"),
    ("es", "technical_specification", "Especificación técnica de una app de reservas"),
    ("en", "technical_specification", "Technical specification of the software"),
    ("es", "content_strategy", "Estrategia de contenido para redes sociales"),
    ("en", "content_strategy", "Content strategy for our blog"),
    ("es", "strategic_plan", "Plan estratégico de expansión a Portugal"),
    ("en", "strategic_plan", "Strategic plan for growth in the next five years"),
    ("es", "customer_service_guide", "Guía de atención al cliente para devoluciones"),
    ("en", "customer_service_guide", "Customer service guide for complaints"),
    ("es", "business_plan", "Un plan de empresa de aceite"),
    ("es", "financial_report", "Necesito un informe económico"),
    ("es", "strategic_plan", "Hoja de ruta de una cooperativa"),
    ("en", "customer_service_guide", "We need a customer care guide"),
    ("es", "hr_policy", "Política de teletrabajo para un estudio de arquitectura"),
]


@pytest.mark.parametrize(("language", "document_type", "query"), QUERIES)
def test_language_and_type_are_recognised(language: str, document_type: str, query: str) -> None:
    assert analyse.language(query) == language
    assert analyse.document_type(query) == document_type
    assert analyse.document_type(query.upper()) == document_type


def test_the_examples_cover_every_type_in_every_language() -> None:
    assert {(language, kind) for language, kind, _ in QUERIES} == {
        (language, kind) for language in LANGUAGES for kind in DOCUMENT_TYPES
    }


def test_without_evidence_the_language_is_spanish_and_the_type_open() -> None:
    assert analyse.language("12345 !!!") == "es"
    assert analyse.document_type("12345 !!!") is None


def test_every_type_has_an_area_and_every_area_a_type() -> None:
    assert set(analyse.AREA_OF_TYPE) == set(DOCUMENT_TYPES)
    assert {analyse.AREA_OF_TYPE[analyse.type_of_area(area)] for area in AREAS} == set(AREAS)


@given(st.text())
def test_any_text_gets_a_language_and_perhaps_a_type(text: str) -> None:
    assert analyse.language(text) in LANGUAGES
    assert analyse.document_type(text) in {None, *DOCUMENT_TYPES}
