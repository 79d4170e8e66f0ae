# SPDX-License-Identifier: 0BSD
"""Each event once, from nginx's lines: spark-submit spark.py '/var/log/nginx/telemetry.jsonl*' out.parquet"""

import sys

from pyspark.sql import SparkSession
from pyspark.sql import functions as f

EVENT = "STRUCT<name: STRING, timestamp_micros: BIGINT, params: MAP<STRING, STRING>>"
TIMES = "timestamp_micros BETWEEN (received - 30 * 86400) * 1000000 AND (received + 3600) * 1000000"

spark = (SparkSession.builder.appName("telemetry").config("spark.sql.session.timeZone", "UTC")
         .config("spark.sql.parquet.compression.codec", "zstd").getOrCreate())
events = (spark.read.schema("received DOUBLE, body STRING").json(sys.argv[1])
          .select("received", f.from_json("body", f"client_id STRING, events ARRAY<{EVENT}>").alias("body"))
          .select("received", "body.client_id", f.explode("body.events").alias("event"))
          .select("received", "client_id", "event.*")
          .where("client_id RLIKE '^[0-9a-fA-F-]{36}$'").where(TIMES)
          .dropDuplicates(["client_id", "timestamp_micros"])
          .withColumn("day", f.to_date(f.timestamp_micros("timestamp_micros"))))
events.write.mode("overwrite").partitionBy("day").parquet(sys.argv[2])

spark.read.parquet(sys.argv[2]).createOrReplaceTempView("events")
spark.sql("""SELECT date_trunc('week', day) AS week,
                    count(DISTINCT client_id) FILTER (WHERE params['ci'] = 'false') AS people,
                    count(DISTINCT client_id) FILTER (WHERE params['ci'] = 'true') AS ci
             FROM events GROUP BY 1 ORDER BY 1""").show()
spark.sql("""SELECT params['command'] AS command, count(*) AS runs,
                    round(100 * avg(int(params['success'] = 'true')), 1) AS percent_ok,
                    percentile_approx(int(params['duration']), array(0.5, 0.95)) AS p50_p95_ms
             FROM events WHERE name = 'command_executed' AND params['ci'] = 'false'
             GROUP BY 1 ORDER BY 2 DESC""").show(truncate=False)
print("events", spark.table("events").count())
