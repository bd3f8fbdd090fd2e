"""Spanish: vocabulary of the ten areas and shape of the eleven document types."""

from __future__ import annotations

from grammar import area, kind

AREAS = {
    "marketing": area(
        """aumentar la notoriedad de la marca
        reducir el coste de captación
        atraer visitas cualificadas a la web
        mejorar la conversión de la página de inicio
        fidelizar a los clientes actuales
        diferenciar la propuesta frente a la competencia""",
        """publicar un calendario editorial mensual
        lanzar una campaña de anuncios en buscadores
        colaborar con prescriptores locales
        segmentar la base de contactos por interés
        probar dos versiones de cada mensaje
        enviar un boletín quincenal
        organizar una jornada de puertas abiertas
        recoger testimonios de clientes satisfechos""",
        """la tasa de conversión | %
        el coste por cliente captado | €
        el tráfico orgánico mensual | n
        la tasa de apertura del boletín | %
        el recuerdo de marca | %""",
        """el aumento del precio de los anuncios => diversificar los canales de pago
        un mensaje poco claro => probar los textos con un grupo reducido
        la dependencia de una sola red social => reforzar la web y el correo propio
        la respuesta de un competidor => vigilar precios y ofertas cada semana""",
        """el equipo de marketing
        la responsable de marca
        el analista de campañas""",
        """una herramienta de analítica web
        un gestor de correo masivo
        un banco de imágenes propio""",
    ),
    "sales": area(
        """acortar el ciclo de venta
        aumentar el importe medio por pedido
        abrir nuevas cuentas en la región
        mejorar la tasa de cierre
        recuperar clientes inactivos
        ordenar la cartera de oportunidades""",
        """llamar a cada contacto antes de 24 horas
        preparar una demostración adaptada a cada cliente
        revisar las oportunidades cada lunes
        ofrecer un periodo de prueba
        formar al equipo en negociación
        registrar cada visita en el sistema
        proponer un contrato marco a las cuentas clave
        enviar una oferta por escrito tras cada reunión""",
        """la tasa de cierre | %
        el importe medio por pedido | €
        el número de visitas comerciales | n
        la duración del ciclo de venta | d
        la retención de clientes | %""",
        """la presión sobre los precios => defender el valor con casos reales
        la concentración en pocos clientes => fijar un límite de peso por cuenta
        el retraso en las decisiones => acordar un calendario con el comprador
        la rotación de comerciales => documentar cada cuenta en el sistema""",
        """el equipo comercial
        la dirección de ventas
        el gestor de cuentas clave""",
        """un sistema de gestión de clientes
        un catálogo actualizado
        una calculadora de ofertas""",
    ),
    "operations": area(
        """reducir los tiempos de entrega
        eliminar pasos que no aportan valor
        asegurar la calidad en cada turno
        bajar el coste por unidad
        evitar roturas de existencias
        aumentar la capacidad de la planta""",
        """documentar cada proceso en una sola página
        revisar las existencias cada mañana
        programar el mantenimiento preventivo
        medir los tiempos de cada puesto
        homologar a dos proveedores por material
        reunir a los turnos durante diez minutos
        etiquetar las zonas de trabajo
        registrar cada incidencia el mismo día""",
        """el tiempo medio de entrega | d
        el porcentaje de pedidos completos | %
        la tasa de defectos | %
        las horas de parada | n
        el coste por unidad | €""",
        """el fallo de un proveedor => mantener una fuente alternativa
        una avería de la maquinaria => revisar los equipos según el plan
        los errores en el registro => usar una lista de comprobación
        un pico de demanda => acordar horas flexibles con la plantilla""",
        """el equipo de operaciones
        la jefatura de planta
        el responsable de calidad""",
        """un tablero de control diario
        un almacén bien señalizado
        un programa de mantenimiento""",
    ),
    "hr": area(
        """atraer talento con experiencia
        reducir la rotación de la plantilla
        mejorar el clima laboral
        facilitar la conciliación
        garantizar la igualdad de trato
        desarrollar a los mandos intermedios""",
        """publicar las vacantes primero en la casa
        entrevistar a cada persona que se marcha
        asignar un mentor a cada incorporación
        fijar objetivos individuales cada semestre
        ofrecer un plan anual de formación
        hacer una encuesta de clima anónima
        acordar horarios flexibles por equipo
        revisar los salarios cada año""",
        """la rotación anual | %
        los días para cubrir una vacante | d
        las horas de formación por persona | n
        la satisfacción de la plantilla | %
        el absentismo | %""",
        """la falta de candidatos => colaborar con centros de formación
        la sobrecarga de los equipos => repartir las tareas cada semana
        la desigualdad salarial => publicar bandas por puesto
        la desmotivación => reconocer los logros en público""",
        """el equipo de personas
        la dirección de recursos humanos
        el comité de empresa""",
        """un portal del empleado
        un plan de acogida
        un buzón de sugerencias""",
    ),
    "finance": area(
        """mejorar la liquidez
        reducir los gastos fijos
        aumentar el margen bruto
        acortar el plazo de cobro
        financiar el crecimiento sin deuda cara
        cerrar las cuentas en cinco días""",
        """revisar la tesorería cada semana
        negociar los plazos con proveedores
        separar los gastos por centro de coste
        comparar el presupuesto con lo real cada mes
        reclamar las facturas vencidas
        actualizar la previsión trimestral
        pedir tres ofertas para cada compra
        conciliar los bancos a diario""",
        """el margen bruto | %
        el plazo medio de cobro | d
        la caja disponible | €
        el nivel de endeudamiento | %
        los gastos fijos mensuales | €""",
        """el impago de un cliente grande => asegurar el crédito comercial
        la subida de los tipos de interés => fijar el coste de la deuda
        los errores de registro => exigir doble revisión
        un gasto imprevisto => mantener un fondo de reserva""",
        """el equipo financiero
        la dirección financiera
        el controlador de gestión""",
        """un programa de contabilidad
        una previsión de tesorería
        un cuadro de mando mensual""",
    ),
    "legal": area(
        """cumplir la normativa vigente
        proteger los datos personales
        reducir los litigios
        aclarar las responsabilidades de cada parte
        defender la propiedad intelectual
        ordenar el archivo de contratos""",
        """revisar las cláusulas con cada renovación
        registrar las marcas propias
        formar a la plantilla en protección de datos
        firmar acuerdos de confidencialidad
        llevar un registro de obligaciones
        nombrar a una persona responsable
        conservar las pruebas de cada entrega
        consultar a un asesor antes de firmar""",
        """el número de reclamaciones | n
        los contratos revisados | %
        el plazo de respuesta legal | d
        las obligaciones al día | %
        el coste de asesoría | €""",
        """un cambio de la ley => seguir las publicaciones oficiales
        una cláusula ambigua => definir los términos por escrito
        la fuga de información => limitar el acceso a los documentos
        el incumplimiento de plazos => avisar treinta días antes""",
        """el equipo jurídico
        la asesoría externa
        el delegado de protección de datos""",
        """un archivo de contratos
        un modelo de cláusulas
        un calendario de vencimientos""",
    ),
    "technical": area(
        """mejorar la disponibilidad del sistema
        reducir el tiempo de respuesta
        automatizar las pruebas
        proteger los datos de los usuarios
        simplificar la arquitectura
        facilitar el mantenimiento""",
        """automatizar el despliegue
        escribir pruebas para cada módulo
        vigilar los errores en tiempo real
        revisar el código entre dos personas
        hacer copias de seguridad diarias
        documentar las interfaces
        medir el consumo de recursos
        renovar las claves cada trimestre""",
        """la disponibilidad mensual | %
        el tiempo medio de respuesta | ms
        la cobertura de pruebas | %
        el número de incidencias graves | n
        el tiempo de recuperación | min""",
        """la caída de un servidor => mantener una réplica activa
        una versión defectuosa => desplegar por fases
        el acceso no autorizado => exigir doble factor
        la deuda técnica => reservar tiempo en cada ciclo""",
        """el equipo técnico
        la jefatura de ingeniería
        el responsable de seguridad""",
        """un entorno de pruebas
        un sistema de alertas
        un repositorio común""",
    ),
    "content": area(
        """publicar con regularidad
        unificar el tono de la marca
        responder a las dudas de los lectores
        ganar posiciones en los buscadores
        reutilizar cada pieza en varios formatos
        aumentar el tiempo de lectura""",
        """preparar un calendario de temas
        entrevistar a expertos de la casa
        escribir una guía de estilo
        convertir cada artículo en un vídeo breve
        actualizar los textos antiguos
        revisar los títulos con datos de búsqueda
        responder a los comentarios en un día
        medir el resultado de cada pieza""",
        """el tiempo medio de lectura | min
        las suscripciones nuevas | n
        las piezas publicadas al mes | n
        la tasa de rebote | %
        los enlaces recibidos | n""",
        """la falta de temas => mantener una lista de ideas
        los textos desiguales => aplicar la guía de estilo
        la pérdida de visibilidad => actualizar las páginas principales
        el retraso en las entregas => fijar fechas con margen""",
        """el equipo editorial
        la coordinadora de contenidos
        el responsable de redes""",
        """una guía de estilo
        un calendario editorial
        un estudio de grabación""",
    ),
    "strategy": area(
        """crecer de forma rentable
        entrar en un segmento nuevo
        concentrar la inversión en lo esencial
        ganar resistencia ante los cambios
        crear alianzas duraderas
        diversificar los ingresos""",
        """fijar tres prioridades por año
        revisar el plan cada trimestre
        analizar a los competidores principales
        probar el modelo en una zona reducida
        firmar acuerdos con socios locales
        escuchar a veinte clientes al mes
        asignar un responsable a cada iniciativa
        retirar los proyectos sin resultados""",
        """la cuota de mercado | %
        el crecimiento de los ingresos | %
        la rentabilidad por línea | %
        el número de alianzas activas | n
        la satisfacción de los clientes | %""",
        """un cambio en la demanda => revisar las hipótesis cada trimestre
        la dispersión de esfuerzos => limitar las iniciativas abiertas
        la entrada de un rival => reforzar la relación con los clientes
        la falta de recursos => ordenar las inversiones por impacto""",
        """el comité de dirección
        la dirección general
        el equipo de estrategia""",
        """un cuadro de mando integral
        un fondo para proyectos piloto
        un mapa de competidores""",
    ),
    "customer_service": area(
        """responder antes de dos horas
        resolver en el primer contacto
        mejorar la satisfacción de los clientes
        reducir las reclamaciones repetidas
        ofrecer un trato cercano
        aprender de cada queja""",
        """atender por teléfono, correo y chat
        registrar cada consulta con un número
        escuchar diez llamadas por semana
        preparar respuestas claras a las dudas frecuentes
        llamar al cliente después de cada solución
        pasar los casos difíciles a un especialista
        enviar una encuesta breve al cerrar el caso
        publicar el horario de atención""",
        """la satisfacción de los clientes | %
        el tiempo de primera respuesta | min
        la resolución en el primer contacto | %
        las reclamaciones al mes | n
        las consultas atendidas | n""",
        """un pico de llamadas => reforzar los turnos con antelación
        las respuestas distintas a una misma duda => compartir una base de conocimiento
        la espera excesiva => ofrecer devolución de llamada
        el cansancio del equipo => alternar tareas durante el turno""",
        """el equipo de atención al cliente
        la supervisora de turno
        el servicio de soporte""",
        """una base de conocimiento
        una centralita con registro
        un guion de bienvenida""",
    ),
}

KINDS = {
    "business_plan": kind(
        "plan de negocio | plan de empresa | plan de negocios",
        """summary: Resumen ejecutivo | Visión general
        market: Análisis del mercado | Mercado y oportunidad
        offer: Propuesta de valor | Producto y servicio
        actions: Plan operativo | Cómo se trabajará
        budget: Plan financiero | Inversión prevista
        risks: Riesgos y respuestas | Análisis de riesgos
        closing: Próximos pasos | Conclusión""",
    ),
    "marketing_strategy": kind(
        "estrategia de marketing | plan de marketing | campaña de marketing",
        """summary: Resumen | Punto de partida
        audience: Público objetivo | A quién nos dirigimos
        goals: Objetivos | Objetivos de la campaña
        channels: Canales y mensajes | Plan de medios
        timeline: Calendario | Fases de la campaña
        kpis: Indicadores | Medición de resultados
        closing: Próximos pasos | Conclusión""",
    ),
    "sales_proposal": kind(
        "propuesta comercial | propuesta de venta | oferta comercial",
        """summary: Presentación | Resumen de la propuesta
        needs: Necesidades detectadas | Situación actual
        offer: Nuestra solución | Alcance de la oferta
        benefits: Beneficios para el cliente | Por qué elegirnos
        budget: Condiciones económicas | Precio y plazos
        closing: Aceptación y próximos pasos | Siguiente paso""",
    ),
    "operational_manual": kind(
        "manual de operaciones | manual operativo | manual de procedimientos",
        """scope: Objeto y alcance | Propósito del manual
        roles: Responsabilidades | Funciones y responsables
        procedure: Procedimiento | Paso a paso
        control: Control de calidad | Registros y control
        risks: Incidencias frecuentes | Riesgos y prevención
        closing: Revisión del manual | Actualización""",
    ),
    "hr_policy": kind(
        "política de recursos humanos | política de personal | política laboral",
        """scope: Objeto y alcance | Finalidad
        principles: Principios generales | Compromisos
        rules: Normas de aplicación | Reglas
        rights: Derechos y deberes | Garantías para la plantilla
        roles: Responsabilidades | Quién hace qué
        closing: Entrada en vigor | Revisión de la política""",
    ),
    "financial_report": kind(
        "informe financiero | análisis financiero | informe económico",
        """summary: Resumen del periodo | Resumen ejecutivo
        results: Resultados | Ingresos y gastos
        kpis: Indicadores principales | Ratios
        forecast: Previsión | Perspectivas
        risks: Riesgos financieros | Riesgos y coberturas
        closing: Recomendaciones | Conclusión""",
    ),
    "legal_contract": kind(
        "contrato | contrato de servicios | acuerdo legal",
        """parties: Partes | Reunidos
        object: Objeto del contrato | Cláusula primera: objeto
        obligations: Obligaciones de las partes | Compromisos
        payment: Precio y forma de pago | Condiciones económicas
        secrecy: Confidencialidad y datos | Protección de la información
        term: Duración y resolución | Vigencia
        law: Ley aplicable | Jurisdicción""",
    ),
    "technical_specification": kind(
        "especificación técnica | ficha técnica | especificación de requisitos",
        """scope: Objeto y alcance | Introducción
        architecture: Arquitectura | Diseño general
        requirements: Requisitos | Requisitos funcionales
        tests: Pruebas y aceptación | Verificación
        kpis: Niveles de servicio | Rendimiento esperado
        risks: Riesgos técnicos | Seguridad y riesgos
        closing: Entrega | Próximos pasos""",
    ),
    "content_strategy": kind(
        "estrategia de contenidos | plan de contenidos | plan editorial",
        """summary: Resumen | Punto de partida
        audience: Lectores | Público y tono
        channels: Formatos y canales | Dónde publicaremos
        timeline: Calendario editorial | Plan de publicación
        goals: Objetivos | Qué queremos lograr
        kpis: Medición | Indicadores
        closing: Próximos pasos | Conclusión""",
    ),
    "strategic_plan": kind(
        "plan estratégico | estrategia | hoja de ruta",
        """summary: Resumen ejecutivo | Visión
        swot: Diagnóstico | Análisis DAFO
        goals: Objetivos estratégicos | Prioridades
        actions: Iniciativas | Líneas de actuación
        timeline: Hoja de ruta | Calendario
        kpis: Cuadro de mando | Seguimiento
        closing: Conclusión | Próximos pasos""",
    ),
    "customer_service_guide": kind(
        "guía de atención al cliente | guía de servicio al cliente | protocolo de atención",
        """scope: Objeto de la guía | Bienvenida
        principles: Principios de atención | Nuestra forma de atender
        protocol: Protocolo de atención | Pasos de cada consulta
        faq: Preguntas frecuentes | Respuestas a dudas habituales
        complaints: Reclamaciones | Casos difíciles
        kpis: Calidad del servicio | Indicadores
        closing: Mejora continua | Revisión de la guía""",
    ),
}
