"""English: vocabulary of the ten areas and shape of the eleven document types."""

from __future__ import annotations

from grammar import area, kind

AREAS = {
    "marketing": area(
        """raise brand awareness
        lower the cost of acquisition
        bring qualified visitors to the website
        improve the conversion of the landing page
        keep current customers loyal
        stand out from competitors""",
        """publish a monthly editorial calendar
        run a search advertising campaign
        work with local influencers
        segment the contact list by interest
        test two versions of every message
        send a newsletter every two weeks
        host an open day
        collect testimonials from happy customers""",
        """the conversion rate | %
        the cost per acquired customer | $
        the monthly organic traffic | n
        the newsletter open rate | %
        the brand recall | %""",
        """rising advertising prices => spread the budget over several channels
        an unclear message => test the copy with a small group
        dependence on one social network => strengthen the website and the mailing list
        a reaction from a competitor => watch prices and offers every week""",
        """the marketing team
        the brand manager
        the campaign analyst""",
        """a web analytics tool
        an email platform
        a library of original pictures""",
    ),
    "sales": area(
        """shorten the sales cycle
        increase the average order value
        open new accounts in the region
        improve the closing rate
        win back inactive customers
        keep the pipeline tidy""",
        """call every lead within 24 hours
        prepare a demonstration for each customer
        review the pipeline every Monday
        offer a trial period
        train the team in negotiation
        log every visit in the system
        propose a framework agreement to key accounts
        send a written offer after each meeting""",
        """the closing rate | %
        the average order value | $
        the number of sales visits | n
        the length of the sales cycle | d
        the customer retention | %""",
        """pressure on prices => defend the value with real cases
        reliance on a few customers => set a limit on the weight of each account
        slow decisions => agree on a calendar with the buyer
        turnover in the sales team => document every account in the system""",
        """the sales team
        the head of sales
        the key account manager""",
        """a customer management system
        an up-to-date catalogue
        a quote calculator""",
    ),
    "operations": area(
        """reduce delivery times
        remove steps that add no value
        secure quality on every shift
        cut the cost per unit
        avoid running out of stock
        increase the capacity of the plant""",
        """document each process on a single page
        check the stock every morning
        schedule preventive maintenance
        time the work at every station
        approve two suppliers for each material
        gather the shifts for ten minutes
        label the work areas
        record every incident on the same day""",
        """the average delivery time | d
        the share of complete orders | %
        the defect rate | %
        the hours of downtime | n
        the cost per unit | $""",
        """the failure of a supplier => keep an alternative source
        a machine breakdown => service the equipment as planned
        errors in the records => use a checklist
        a peak in demand => agree on flexible hours with the staff""",
        """the operations team
        the plant manager
        the quality lead""",
        """a daily control board
        a well-marked warehouse
        a maintenance schedule""",
    ),
    "hr": area(
        """attract experienced talent
        reduce staff turnover
        improve the working climate
        support work-life balance
        guarantee equal treatment
        develop middle managers""",
        """publish vacancies in the house first
        interview everyone who leaves
        assign a mentor to each newcomer
        set individual goals every six months
        offer a yearly training plan
        run an anonymous climate survey
        agree on flexible hours by team
        review salaries every year""",
        """the yearly turnover | %
        the days to fill a vacancy | d
        the training hours per person | n
        the staff satisfaction | %
        the absence rate | %""",
        """a shortage of candidates => work with training centres
        overloaded teams => share out the tasks every week
        unequal pay => publish salary bands by position
        low motivation => recognise achievements in public""",
        """the people team
        the head of human resources
        the works council""",
        """an employee portal
        a welcome plan
        a suggestion box""",
    ),
    "finance": area(
        """improve liquidity
        reduce fixed costs
        increase the gross margin
        shorten the collection period
        fund growth without expensive debt
        close the books in five days""",
        """review the cash position every week
        negotiate terms with suppliers
        split expenses by cost centre
        compare budget and actuals every month
        chase overdue invoices
        update the quarterly forecast
        ask for three quotes before each purchase
        reconcile the bank accounts daily""",
        """the gross margin | %
        the average collection period | d
        the available cash | $
        the level of debt | %
        the monthly fixed costs | $""",
        """a large customer that does not pay => insure the trade credit
        rising interest rates => fix the cost of debt
        bookkeeping errors => require a second review
        an unexpected expense => keep a reserve fund""",
        """the finance team
        the chief financial officer
        the management accountant""",
        """an accounting system
        a cash forecast
        a monthly dashboard""",
    ),
    "legal": area(
        """comply with current regulations
        protect personal data
        reduce disputes
        clarify the duties of each party
        defend intellectual property
        keep the contract archive in order""",
        """review the clauses at each renewal
        register the trademarks
        train the staff in data protection
        sign confidentiality agreements
        keep a register of obligations
        appoint a person in charge
        keep proof of every delivery
        consult an adviser before signing""",
        """the number of claims | n
        the contracts reviewed | %
        the legal response time | d
        the obligations up to date | %
        the cost of legal advice | $""",
        """a change in the law => follow the official publications
        an ambiguous clause => define the terms in writing
        a leak of information => limit access to documents
        missed deadlines => give notice thirty days before""",
        """the legal team
        the external counsel
        the data protection officer""",
        """a contract archive
        a set of model clauses
        a calendar of expiry dates""",
    ),
    "technical": area(
        """improve system availability
        reduce the response time
        automate testing
        protect user data
        simplify the architecture
        make maintenance easier""",
        """automate the deployment
        write tests for each module
        watch errors in real time
        review code in pairs
        take daily backups
        document the interfaces
        measure the use of resources
        rotate the keys every quarter""",
        """the monthly availability | %
        the average response time | ms
        the test coverage | %
        the number of serious incidents | n
        the recovery time | min""",
        """a server failure => keep an active replica
        a faulty release => deploy in stages
        unauthorised access => require a second factor
        technical debt => reserve time in every cycle""",
        """the engineering team
        the head of engineering
        the security officer""",
        """a test environment
        an alerting system
        a shared repository""",
    ),
    "content": area(
        """publish regularly
        unify the tone of the brand
        answer the questions of readers
        climb in the search results
        reuse each piece in several formats
        increase the reading time""",
        """prepare a calendar of topics
        interview experts in the house
        write a style guide
        turn each article into a short video
        update old texts
        check the titles against search data
        answer comments within a day
        measure the result of each piece""",
        """the average reading time | min
        the new subscriptions | n
        the pieces published per month | n
        the bounce rate | %
        the links received | n""",
        """a shortage of topics => keep a list of ideas
        uneven texts => apply the style guide
        a loss of visibility => update the main pages
        late deliveries => set dates with some slack""",
        """the editorial team
        the content coordinator
        the social media manager""",
        """a style guide
        an editorial calendar
        a recording studio""",
    ),
    "strategy": area(
        """grow profitably
        enter a new segment
        focus investment on what matters
        become resilient to change
        build lasting partnerships
        diversify the sources of income""",
        """set three priorities a year
        review the plan every quarter
        study the main competitors
        pilot the model in a small area
        sign agreements with local partners
        listen to twenty customers a month
        name an owner for each initiative
        stop projects without results""",
        """the market share | %
        the revenue growth | %
        the profit by line | %
        the number of active partnerships | n
        the customer satisfaction | %""",
        """a shift in demand => review the assumptions every quarter
        scattered efforts => limit the number of open initiatives
        a new rival => strengthen the bond with customers
        a lack of resources => rank investments by impact""",
        """the management board
        the general manager
        the strategy team""",
        """a balanced scorecard
        a fund for pilot projects
        a map of competitors""",
    ),
    "customer_service": area(
        """reply within two hours
        solve the problem at first contact
        improve customer satisfaction
        reduce repeated complaints
        offer a friendly treatment
        learn from every complaint""",
        """answer by phone, email and chat
        register each query with a number
        listen to ten calls a week
        prepare clear answers to common questions
        call the customer after each solution
        pass difficult cases to a specialist
        send a short survey when a case is closed
        publish the opening hours""",
        """the customer satisfaction | %
        the first response time | min
        the first contact resolution | %
        the complaints per month | n
        the queries answered | n""",
        """a peak in calls => reinforce the shifts in advance
        different answers to the same question => share a knowledge base
        long waiting times => offer a call back
        a tired team => alternate tasks during the shift""",
        """the customer service team
        the shift supervisor
        the support desk""",
        """a knowledge base
        a switchboard with call records
        a welcome script""",
    ),
}

KINDS = {
    "business_plan": kind(
        "business plan | company plan | business case",
        """summary: Executive summary | Overview
        market: Market analysis | Market and opportunity
        offer: Value proposition | Product and service
        actions: Operating plan | How we will work
        budget: Financial plan | Planned investment
        risks: Risks and responses | Risk analysis
        closing: Next steps | Conclusion""",
    ),
    "marketing_strategy": kind(
        "marketing strategy | marketing plan | marketing campaign",
        """summary: Summary | Starting point
        audience: Target audience | Who we speak to
        goals: Objectives | Campaign goals
        channels: Channels and messages | Media plan
        timeline: Timeline | Campaign phases
        kpis: Indicators | Measuring results
        closing: Next steps | Conclusion""",
    ),
    "sales_proposal": kind(
        "sales proposal | commercial proposal | sales offer",
        """summary: Introduction | Summary of the proposal
        needs: Identified needs | Current situation
        offer: Our solution | Scope of the offer
        benefits: Benefits for the customer | Why choose us
        budget: Commercial terms | Price and deadlines
        closing: Acceptance and next steps | Next step""",
    ),
    "operational_manual": kind(
        "operations manual | operational manual | procedures manual",
        """scope: Purpose and scope | Purpose of the manual
        roles: Responsibilities | Roles and owners
        procedure: Procedure | Step by step
        control: Quality control | Records and control
        risks: Common incidents | Risks and prevention
        closing: Review of the manual | Updates""",
    ),
    "hr_policy": kind(
        "HR policy | human resources policy | employment policy",
        """scope: Purpose and scope | Aim
        principles: General principles | Commitments
        rules: Rules | How the policy applies
        rights: Rights and duties | Guarantees for staff
        roles: Responsibilities | Who does what
        closing: Entry into force | Review of the policy""",
    ),
    "financial_report": kind(
        "financial report | financial analysis | finance report",
        """summary: Summary of the period | Executive summary
        results: Results | Income and expenses
        kpis: Key indicators | Ratios
        forecast: Forecast | Outlook
        risks: Financial risks | Risks and cover
        closing: Recommendations | Conclusion""",
    ),
    "legal_contract": kind(
        "contract | service agreement | legal contract",
        """parties: Parties | The parties
        object: Purpose of the contract | Clause one: purpose
        obligations: Obligations of the parties | Commitments
        payment: Price and payment | Financial terms
        secrecy: Confidentiality and data | Protection of information
        term: Term and termination | Duration
        law: Governing law | Jurisdiction""",
    ),
    "technical_specification": kind(
        "technical specification | technical data sheet | requirements specification",
        """scope: Purpose and scope | Introduction
        architecture: Architecture | General design
        requirements: Requirements | Functional requirements
        tests: Testing and acceptance | Verification
        kpis: Service levels | Expected performance
        risks: Technical risks | Security and risks
        closing: Delivery | Next steps""",
    ),
    "content_strategy": kind(
        "content strategy | content plan | editorial plan",
        """summary: Summary | Starting point
        audience: Readers | Audience and tone
        channels: Formats and channels | Where we publish
        timeline: Editorial calendar | Publishing plan
        goals: Objectives | What we want to achieve
        kpis: Measurement | Indicators
        closing: Next steps | Conclusion""",
    ),
    "strategic_plan": kind(
        "strategic plan | strategy | roadmap",
        """summary: Executive summary | Vision
        swot: Diagnosis | SWOT analysis
        goals: Strategic objectives | Priorities
        actions: Initiatives | Lines of action
        timeline: Roadmap | Calendar
        kpis: Scorecard | Follow-up
        closing: Conclusion | Next steps""",
    ),
    "customer_service_guide": kind(
        "customer service guide | customer care guide | service protocol",
        """scope: Purpose of the guide | Welcome
        principles: Service principles | How we serve
        protocol: Service protocol | Steps for each query
        faq: Frequent questions | Answers to common questions
        complaints: Complaints | Difficult cases
        kpis: Service quality | Indicators
        closing: Continuous improvement | Review of the guide""",
    ),
}
