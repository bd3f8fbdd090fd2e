"""What is asked of the model when it is to write a document, and how that is put into words.

The company's briefing comes first and the single document's part last, so that documents of one
company share the longest possible prefix. The training corpus of ``mini`` is made with this very
function, so the format has one home.
"""

from __future__ import annotations

from dataclasses import dataclass

from blatam_kv.truthgpt.protocol import Message

LANGUAGES = {"es": "Spanish", "en": "English"}

AREAS = (
    "marketing",
    "sales",
    "operations",
    "hr",
    "finance",
    "legal",
    "technical",
    "content",
    "strategy",
    "customer_service",
)

DOCUMENT_TYPES = (
    "business_plan",
    "marketing_strategy",
    "sales_proposal",
    "operational_manual",
    "hr_policy",
    "financial_report",
    "legal_contract",
    "technical_specification",
    "content_strategy",
    "strategic_plan",
    "customer_service_guide",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """One document as asked for. Empty strings mean "not given"."""

    query: str
    language: str = "es"
    document_type: str = "business_plan"
    business_area: str = "strategy"
    company_name: str = ""
    industry: str = ""
    company_size: str = ""
    target_audience: str = ""

    def messages(self) -> list[Message]:
        """The conversation that asks for this document."""
        lines = [
            "You are TruthGPT. Write one business document in Markdown.",
            f"Language: {LANGUAGES[self.language]}",
        ]
        for label, value in (
            ("Company", self.company_name),
            ("Industry", self.industry),
            ("Company size", self.company_size),
            ("Audience", self.target_audience),
        ):
            if value:
                lines.append(f"{label}: {value}")
        lines.append(f"Type: {self.document_type.replace('_', ' ')}")
        lines.append(f"Area: {self.business_area.replace('_', ' ')}")
        return [Message("system", "\n".join(lines)), Message("user", self.query)]
