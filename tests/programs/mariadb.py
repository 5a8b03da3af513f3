"""Small statements and large rows on one connection."""
import hashlib
import sys

import pymysql

connection = pymysql.connect(host="127.0.0.1", port=int(sys.argv[1]), user="root", database="t",
                             max_allowed_packet=64 << 20)
with connection.cursor() as cursor:
    for i in range(1500):
        cursor.execute("select length(text) from small where id = %s", (1 + i % 40,))
    cursor.execute("create table large (id int primary key, bytes longblob)")
    for i in range(6):
        cursor.execute("insert into large values (%s, %s)", (i, bytes([65 + i]) * (4 << 20)))
    connection.commit()
    cursor.execute("select bytes from large order by id")
    print("large", hashlib.sha256(b"".join(row[0] for row in cursor.fetchall())).hexdigest())
