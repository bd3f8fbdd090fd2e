"""English: the sentences of documents and the ways in which users ask for them."""

from __future__ import annotations

from english import AREAS, KINDS
from grammar import Language, lines

SENTENCES = {
    "summary": """This document presents the work of {c} on {s}.
    The following pages set out how {c} will approach {s} over the next {n} months.
    These pages explain why the work on {s} is a priority for {c}.
    The proposal of {c} focuses on {s} and starts from a simple idea: {g}.
    With this work, {c} wants to move forward with {s} and, at the same time, {g}.
    The main aim is to {g}, with {s} at the centre of every decision.
    {C} relies on {t} and on {r} to carry out {s}.
    {C} sets aside ${m} for {s} in the first phase.
    We expect to improve {k} by {p}% within {n} months.
    The whole plan for {s} rests on two ideas: {g1} and {g2}.""",
    "market": """Demand related to {s} has grown by {p}% over the last {n} years.
    The market for {s} is shared by several small companies and none of them dominates.
    Customers who look for {s} value trust, speed and clarity above all.
    In the area where {c} works there is room for a different offer of {s}.
    Competitors offer {s} at similar prices and with little service.
    {C} can stand out if it manages to {g}.
    Interviews with customers confirm the interest in {s}.
    The opportunity is clear: {g} before others do.
    We estimate a market of ${m} a year for {s}.""",
    "offer": """The offer of {c} for {s} combines quality, speed and direct contact.
    Our proposal on {s} includes {r} and the support of {t}.
    Customers receive a complete solution for {s} with a single point of contact.
    What sets {c} apart is the way to {g}.
    Every delivery related to {s} comes with a short and clear report.
    The service around {s} adapts to the size and pace of each customer.
    {C} guarantees an answer within {n} working days.
    Initial training on {s} is offered at no extra cost.""",
    "actions": """To move forward with {s}, {c} will take these actions:
    The work on {s} is organised in concrete tasks:
    The lines of work of {c} for {s} are the following:
    These are the measures planned by {t}:
    The plan of {c} translates into the following steps:""",
    "actions_end": """Execution is in the hands of {t}, who will report every {n} weeks.
    In this way {c} expects to {g}.
    To support these tasks there is {r}.
    Progress on {s} will be reviewed at the end of each month.""",
    "goals": """The objectives of {c} with regard to {s} are:
    With {s}, {c} wants to reach these goals:
    The priorities for {s} this year are:
    The work on {s} pursues the following:""",
    "goals_end": """Each objective has a date and an owner.
    The result will be measured with {k}.
    Follow-up is the task of {t}.
    {C} will review these goals every {n} months.""",
    "audience": """The message about {s} speaks to people who know the problem and look for help.
    Our main audience is made of customers interested in {s} who compare before they decide.
    People who follow {c} want practical information about {s}.
    The tone will be friendly, clear and free of jargon.
    About {p}% of the queries received by {c} are about {s}.
    There are two profiles: those who decide the purchase and those who use the service.
    {C} will speak with real examples and figures that can be checked.
    To know this audience better, we will {a}.""",
    "channels": """To make {s} known, these channels will be used:
    The channels chosen by {c} for {s} are:
    The message of {c} about {s} will arrive in several ways:
    Each channel plays a different part in promoting {s}:""",
    "timeline": """The calendar for {s} is divided into phases:
    The dates planned by {c} for {s} are:
    The work of {c} will advance in stages:
    The launch of {s} will take {n} months:""",
    "kpis": """To measure progress on {s}, {c} will follow these indicators:
    The success of {s} will be checked with data:
    The indicators agreed by {t} are:
    Every month {c} will publish these figures about {s}:""",
    "budget": """The investment planned by {c} for {s} is the following:
    The budget for {s} is split as follows:
    The commercial terms of {c} for {s} are:
    The amounts below cover {s} for {n} months:""",
    "budget_end": """The amounts do not include taxes.
    The return is expected from month {n}.
    Any change will be approved by {t}.
    {C} will review these figures every quarter.""",
    "risks": """The main risks of {s} and the planned responses are:
    While working on {s}, {c} will keep an eye on the following:
    These are the risks that {t} has identified:
    The experience of {c} with {s} suggests watching these points:""",
    "closing": """Over the next {n} days, {c} will {a}.
    The next step is to {a} and present the results to {t}.
    For the project on {s} to advance, we need to {a} as soon as possible.
    This document will be reviewed every {n} months with {t}.
    {C} trusts {s} as a way to {g}.
    Any question about {s} can be sent to {t}.
    With steady work, {s} will make it possible to {g}.
    The commitment of {c} is clear: {g}.
    In this way {c} will be able to {g1} and also {g2}.""",
    "needs": """After several conversations, {c} has found a clear need around {s}.
    The current situation shows that managing {s} takes too much time and money.
    Today the work on {s} depends on manual tasks and scattered information.
    The challenge is to {g} without raising costs.
    The data show that {k} has worsened by {p}% this year.
    {C} knows this problem well and has helped {n} similar customers.
    Solving {s} will make it possible to {g}.""",
    "benefits": """With {c}, the customer gains concrete advantages in {s}:
    Choosing {c} for {s} brings the following:
    The benefits of our solution for {s} are:""",
    "scope": """This document governs {s} at {c}.
    This text explains how the work on {s} is managed and whom it concerns.
    The purpose of this document is to put {s} in order and {g}.
    Its contents apply to everyone at {c} who takes part in {s}.
    {C} wants the work on {s} to be clear, measurable and easy to maintain.
    All activities related to {s} are included.
    The document takes effect in {q} and is maintained by {t}.
    Any exception concerning {s} must be approved by {t}.""",
    "roles": """At {c}, the responsibilities for {s} are shared as follows:
    Everyone involved in {s} knows their role:
    The roles related to {s} are:""",
    "procedure": """The procedure of {c} for {s} has the following steps:
    To carry out {s} safely, follow this order:
    The daily work with {s} is done like this:
    Whenever someone works on {s}, the staff of {c} must:""",
    "control": """The quality of {s} is checked with {k}.
    The records of {s} are kept for {n} years.
    Once a month, {t} reviews a sample of the work on {s}.
    {C} considers a deviation of {p}% acceptable.
    If an error is found, it is written down, corrected and traced to its cause.
    For control purposes there is {r}.""",
    "principles": """At {c}, the work on {s} is guided by these principles:
    The commitments of {c} regarding {s} are:
    Every action related to {s} respects the following:""",
    "rules": """The rules of {c} on {s} are:
    To apply {s} fairly, these rules are set:
    The daily running of {s} follows these rules:""",
    "rights": """The staff of {c} have the right to know everything about {s}.
    Everyone may raise questions or complaints about {s} without fear.
    Decisions about {s} are communicated in writing within {n} days.
    {C} treats personal data with care.
    In return, a responsible use of {s} is expected.
    Serious breaches will be studied together with {t}.""",
    "results": """During the period, the income of {c} linked to {s} reached ${m}.
    The expenses related to {s} came to ${m}, {p}% less than the year before.
    The analysis shows that the line of {s} brings in {p}% of the sales of {c}.
    The trend of {k} has been favourable.
    {C} has managed to {g} thanks to {s}.
    The second quarter was the strongest, with an increase of {p}%.
    The largest item was staff.""",
    "forecast": """For the coming year, {c} expects {s} to grow by {p}%.
    The forecast for {s} is based on cautious figures.
    If the plan holds, {s} will generate ${m} in {n} months.
    The lowest scenario assumes a fall of {p}%.
    {C} will review the forecast every quarter.
    The necessary investment is estimated at ${m}.""",
    "parties": """On the one side, {c}, hereinafter the Provider; on the other, the Client.
    This contract is made between {c}, as the Provider, and the Client.
    Both parties acknowledge their capacity to agree on {s}.
    The parties wish to govern {s} under the terms below.
    {C} declares that it has the means required for {s}.
    The Client declares that it knows the features of {s}.""",
    "object": """The purpose of this contract is {s}, which {c} will provide to the Client.
    Under this contract, {c} undertakes to carry out {s} for the Client.
    The scope of {s} is detailed in annex {n}.
    Any extension of {s} will require a written agreement.
    {C} will act with the care expected of its profession.
    The shared purpose is to {g}.""",
    "obligations": """The obligations of the parties regarding {s} are:
    For the good progress of {s}, {c} and the Client agree to the following:
    During the term of this contract on {s}, the parties shall respect these points:""",
    "payment": """The Client will pay {c} the amount of ${m} for {s}.
    The price of {s} amounts to ${m}, plus taxes.
    Invoices will be paid within {n} days of receipt.
    Late payment will carry interest of {p}% a year.
    {C} may update the price once a year.""",
    "secrecy": """The parties will keep the information about {s} secret.
    The information that {c} receives during {s} will be treated as confidential.
    This duty will last {n} years after the end of the contract.
    Personal data will be processed under current regulations.
    Neither party will pass data about {s} to others without permission.""",
    "term": """This contract on {s} will last {n} months.
    It takes effect when signed and is renewed for equal periods.
    Either party may end it with {n} days of notice.
    A serious breach will allow {c} or the Client to end the agreement.
    At the end, {c} will return the documents about {s}.""",
    "law": """In all other matters, this contract on {s} follows the law of the seat of {c}.
    The parties will try to settle any difference about {s} in good faith.
    Failing that, they will turn to mediation before the courts.
    In witness whereof, {c} and the Client sign this contract.
    Every change must be made in writing and signed by both parties.""",
    "architecture": """The solution for {s} is divided into {n} independent modules.
    The design of {c} for {s} separates data entry, processing and records.
    The components of {s} communicate through a documented interface.
    {C} uses {r} to reduce errors.
    The design is simple so that the team can {g}.
    Each module can be replaced without stopping {s}.""",
    "requirements": """The solution for {s} must meet these requirements:
    The requirements that {c} sets for {s} are:
    To accept {s}, the system must cover the following:""",
    "tests": """The tests of {s} will take place in {n} rounds.
    Before delivery, {t} will check {s} with real data.
    The result is accepted when {k} meets the agreed level.
    {C} will correct the faults within {n} days.
    Each test is recorded with its date and owner.
    The maximum load expected for {s} will be checked too.""",
    "swot": """The diagnosis of {c} regarding {s} is the following:
    Before acting on {s} it helps to know the starting point:
    The analysis of {s} made by {t} shows:""",
    "protocol": """Each query about {s} is handled in this order:
    When a customer asks {c} about {s}, the team must:
    The protocol of {c} for {s} is short:""",
    "faq": """The most common questions about {s} have a prepared answer.
    The most frequent question about {s} is the deadline: the answer is {n} days.
    Many customers ask for the price of {s}; {c} publishes it on its website.
    If the question is not on the list, ask {t}.
    {C} updates these answers every month.
    When in doubt, it is better to call back than to give a wrong answer.""",
    "complaints": """Every complaint about {s} is recorded on the same day.
    When a customer is unhappy with {s}, listen first and then propose a way out.
    Serious complaints go to {t} in less than {n} hours.
    {C} always replies in writing.
    After each case we look for the cause so that it does not happen again.
    About {p}% of the complaints are solved at first contact.""",
    "industry": """In the {i} sector, this proposal is timely.
    The {i} sector demands speed and trust.
    The situation of the sector has been considered: {i}.
    The activity of {c} belongs to {i}.""",
    "reader": """The document is addressed to {u}.
    It is meant for {u}.
    Its readers are {u}.
    The audience that {c} speaks to is {u}.""",
    "size": """Given its size ({z}), {c} can decide quickly.
    The plan fits the size of the organisation: {z}.
    It is meant for an organisation of this size: {z}.""",
}

ITEMS = {
    "channels": """Website: clear pages with prices and contact details
    Email: a mailing every {n} weeks with news
    Social media: short posts with real cases
    Local press: a press release in each phase
    Trade fairs: presence at {n} events a year
    Video: clips of {n} minutes with demonstrations
    Blog: practical articles about {s}
    Points of sale: leaflets and samples about {s}""",
    "benefits": """Savings of {p}% in costs from the first year
    A single point of contact during the whole project
    Short deadlines: {n} weeks from signature
    Proven experience in {s}
    Support included for {n} months
    Clear monthly reports
    Flexible terms without lock-in
    Direct support from {t}""",
    "principles": """Respect: everyone receives the same treatment
    Clarity: information about {s} is public and easy to understand
    Speed: no request waits longer than {n} days
    Responsibility: every decision has an owner
    Confidentiality: data are used only for their purpose
    Improvement: mistakes are a chance to learn
    Consistency: what is promised is delivered
    Closeness: we listen before we answer""",
    "rules": """Requests are made in writing {n} days in advance
    An answer is given within {n} days at most
    If there are several requests, they are handled in order of arrival
    Exceptions are approved by {t}
    Every request concerning {s} is recorded
    Unequal treatment is not allowed
    The rule is reviewed once a year
    The maximum expense per person is ${m}""",
    "obligations": """The Provider will carry out {s} within the agreed deadlines
    The Client will supply the necessary information within {n} days
    The Provider will report progress every month
    The Client will pay the invoices when due
    The Provider will hold an insurance policy of ${m}
    Both parties will name a contact person
    The Client will report defects within {n} days
    The parties will cooperate in good faith""",
    "requirements": """The system will record every operation of {s}
    The response time will be below {n} seconds
    Information will be stored encrypted
    There will be a backup every {n} hours
    Access will require a user name and a password
    The interface will be available in {n} languages
    The design will support {n} times the current load
    Errors will be reported to {t}""",
    "procedure": """Prepare the work area and check the materials
    Read the work order and confirm the quantities
    Check that the work on {s} meets the safety conditions
    Carry out the task according to the sheet
    Write down the time and the result
    Report any anomaly to {t}
    Clean the area and put the tools away
    Sign the record at the end""",
    "protocol": """Greet the customer and ask for their name
    Listen without interrupting
    Repeat the query in other words
    Look for the answer in the knowledge base
    Explain the solution step by step
    Confirm that the question about {s} is solved
    Write the query down in the record
    Say goodbye and offer more help
    Call again in {n} days if anything is pending""",
    "strengths": """experience in {s}
    a committed team
    a close relationship with customers
    costs under control""",
    "weaknesses": """low visibility of {s}
    undocumented processes
    dependence on a few suppliers
    a lack of reliable data""",
    "opportunities": """growing demand for {s}
    public funding available
    new sales channels
    partnerships with local firms""",
    "threats": """pressure on prices
    changes in regulation
    competitors with more resources
    rising costs""",
    "costs": """Staff
    Materials
    Technology
    Communication
    Training
    External advice
    Set-up
    Maintenance
    Transport
    Contingency""",
}

WORDS = {
    "this": ("this service",),
    "company": ("the company", "The company"),
    "kpi_header": ("Indicator", "Current", "Target"),
    "cost_header": ("Item", "Amount"),
    "result_header": ("Period", "Income", "Expenses"),
    "swot": ("Strengths", "Weaknesses", "Opportunities", "Threats"),
    "total": ("Total",),
    "phase": ("Month {0}", "Week {0}", "Phase {0}", "Quarter {0}"),
    "span": ("Months {0} to {1}", "Weeks {0} to {1}"),
    "when": ("January", "March", "April", "June", "September", "October", "the coming quarter"),
    "units": ("$", "days", "min", "ms"),
}

TITLES = """{K}: {s}
{K} of {c}: {s}
{K} for {c}: {s}
{K} on {s}
{K} – {s}
{s}: {k}
{s}: {k} of {c}
{K}: {s} at {c}
{K} | {s}
{K} of {c} on {s}"""

# {k} the type with its article, {b} without, {d} any name for a document; {s} and {c} as above.
QUERIES = {
    "plain": """{b} about {s}
    {b} on {s}
    {b} for {s}
    {b} focused on {s}
    {b} regarding {s}
    {b}: {s}
    {b} for a business in {s}
    {b} related to {s}
    {k} about {s}
    {k} that covers {s}
    {s}
    {s}
    {s}
    {s}: {b}
    {s} ({b})
    {s} {b}
    {d} about {s}
    how to improve {s}
    how to organise {s}
    everything about {s}
    improve {s} this year
    we want to start with {s}
    we are about to launch {s} and need {k}
    we have a project on {s}
    time to prepare {k} for {s}
    topic: {s}""",
    "asked": """I need {k} about {s}
    we need {k} for {s}
    we need {k} on {s}
    write {k} about {s}
    write {k} on {s}
    write {k} for {s}
    write {d} about {s}
    draft {k} for {s}
    draft {k} about {s}
    prepare {k} regarding {s}
    create {k} focused on {s}
    generate {k} about {s}
    make {k} for {s}
    make me {k} about {s}
    I want {k} about {s}
    I would like {k} related to {s}
    I'd like to have {k} for {s}
    please write {k} about {s}
    please prepare {d} on {s}
    can you write {k} about {s}?
    could you prepare {k} for {s}?
    can you help me with {k} on {s}?
    help me prepare {k} about {s}
    develop {k} for {s}
    design {k} for {s}
    looking for {k} about {s}""",
    "named": """{b} of {c} about {s}
    {b} for {c} about {s}
    {b} for {c}: {s}
    {b} for {c}, a company that sells {s}
    {b} for {c}, a startup that sells {s}
    {b} for {c}, a startup that offers {s}
    {b} for {c}, a business in {s}
    {b} for {c}, which makes {s}
    {b} about {s} for {c}
    {b} on {s} at {c}
    {b} for {s} by {c}
    {c}: {b} about {s}
    {c}: {s}
    {c} - {s}
    {c} needs {k} about {s}
    {c} wants {k} for {s}
    {c} is launching {s} and needs {k}
    {c} works in {s}. Write {k}
    {c} sells {s}; prepare {k}
    we are {c} and need {k} for {s}
    we are {c}, we sell {s} and want {k}
    I work at {c} and I am looking for {k} about {s}
    at {c} we want to improve {s}
    for {c}: {b} on {s}
    write {k} for {c} about {s}
    write {k} to {c} about {s}
    draft {k} for {c} regarding {s}
    prepare {k} of {c} focused on {s}
    generate {k} for the company {c}, which works on {s}
    create {k} for {c}. Topic: {s}
    how can {c} improve {s}?
    can you prepare {k} about {s} for {c}?
    help {c} with {k} on {s}
    {s} at {c}
    {s} for {c}
    {s}, {c}""",
    "tails": """Keep it short.
    Include indicators and a budget.
    It is urgent.
    In a formal tone.
    With goals and a calendar.
    Thanks.
    I need it for tomorrow.
    It is for the board.
    Add risks and next steps.
    No fluff.""",
    "documents": """a document
    a text
    a report
    a plan
    a proposal
    a draft
    a guide""",
}

ENGLISH = Language(
    code="en",
    areas=AREAS,
    kinds=KINDS,
    sentences={name: lines(block) for name, block in SENTENCES.items()},
    items={name: lines(block) for name, block in ITEMS.items()},
    words=WORDS,
    titles=lines(TITLES),
    queries={name: lines(block) for name, block in QUERIES.items()},
)
