package main

// plan is what plan finds: nothing to do, or what the source's name says.
func (f *fake) plan(o *planOptions) []sourcePlan {
	shop := sourcePlan{
		Source: "shop", Address: "127.0.0.1:5432", Database: "shop", Version: "17.5", Role: "rowhook", Steps: []planStep{}, Warnings: []planWarning{},
	}
	switch o.source {
	case "fresh":
		shop.Service = "Amazon RDS"
		shop.Steps = []planStep{
			{Action: "alter", Kind: "setting", Name: "wal_level", By: byDBA, Changes: []string{"wal_level = logical"}, Why: "wal_level is replica, logical replication needs logical",
				Detail: "set rds.logical_replication = 1 in the parameter group of the instance (on Aurora, of the cluster) and reboot it"},
			{Action: "create", Kind: "publication", Name: "rowhook_shop", By: byRun, Changes: []string{"+ public.orders (id, status)", "~ public.a\x1b[31m", "- public.gone", "+ publish insert"},
				SQL: []string{`CREATE PUBLICATION "rowhook_shop" FOR TABLE ONLY "public"."orders" ("id", "status");`}},
		}
		shop.Warnings = []planWarning{{Summary: "max_slot_wal_keep_size is -1", Detail: "WAL grows", SQL: []string{"ALTER SYSTEM SET max_slot_wal_keep_size = '50GB';"}}}
	case "broken":
		shop = sourcePlan{Source: "broken", Steps: []planStep{}, Warnings: []planWarning{}, Error: "connect: refused\x1b[31m"}
	}
	return []sourcePlan{shop}
}
