package cdc

import (
	"strings"

	"github.com/rowhook/rowhook/relay"
)

// CreatePublicationSQL returns what a person runs who manages the publication.
func CreatePublicationSQL(name string, tables []relay.TableName) string {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = quoteTable(t)
	}
	sql := "CREATE PUBLICATION " + quoteIdent(name)
	if len(names) > 0 {
		sql += " FOR TABLE " + strings.Join(names, ", ")
	}
	return sql + " WITH (publish_via_partition_root = true)"
}

// CreateSlotSQL returns what a person runs who manages the slot. The
// publication has to exist before it.
func CreateSlotSQL(name string) string {
	return "SELECT pg_create_logical_replication_slot('" + strings.ReplaceAll(name, "'", "''") + "', 'pgoutput')"
}
