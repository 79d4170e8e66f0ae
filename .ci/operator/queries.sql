-- SPDX-License-Identifier: 0BSD
-- 1. Active installations a week: people, those of them whose tool an agent ran, and CI apart. A repeated event
-- changes nothing here. uniq is exact up to some ten thousand, then within a percent.
SELECT toMonday(time) AS week, uniqIf(client_id, NOT params.ci) AS people,
       uniqIf(client_id, NOT params.ci AND params.agent NOT IN ('', 'none')) AS with_agent,
       uniqIf(client_id, params.ci) AS ci
FROM telemetry.events
GROUP BY week ORDER BY week;

-- 2. Version adoption: each installation once a week, by the last version that it ran
SELECT week, version, count() AS installations,
       round(100 * installations / sum(installations) OVER (PARTITION BY week), 1) AS percent
FROM (SELECT toMonday(time) AS week, client_id, argMax(params.cli_version, time) AS version
      FROM telemetry.events WHERE NOT params.ci GROUP BY week, client_id)
GROUP BY week, version ORDER BY week DESC, installations DESC;

-- 3. Success and duration of each command: FINAL counts each event once
SELECT params.command AS command, count() AS runs, round(100 * avg(params.success), 1) AS percent_ok,
       quantile(0.5)(params.duration) AS p50_ms, quantile(0.95)(params.duration) AS p95_ms
FROM telemetry.events FINAL
WHERE name = 'command_executed' AND NOT params.ci AND time > now() - INTERVAL 30 DAY
GROUP BY command ORDER BY runs DESC;

-- 4. Categories of errors, and how many installations meet them
SELECT params.command AS command, params.error_type AS error, count() AS events, uniq(client_id) AS installations
FROM telemetry.events FINAL
WHERE name = 'error_occurred' AND NOT params.ci AND time > now() - INTERVAL 30 DAY
GROUP BY command, error ORDER BY installations DESC;

-- 5. Retention: of the installations first seen in a week, how many came back n weeks later
SELECT first AS cohort, dateDiff('week', first, week) AS weeks_later, count() AS installations
FROM (SELECT client_id, toMonday(time) AS week, min(week) OVER (PARTITION BY client_id) AS first
      FROM telemetry.events WHERE NOT params.ci GROUP BY client_id, week)
GROUP BY cohort, weeks_later ORDER BY cohort, weeks_later;
