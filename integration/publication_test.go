package integration_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
)

// A table that is dropped and made again is not in the publication any more,
// and the server says nothing of its changes.
func TestCapture_ATableThatLeavesThePublicationIsNoticed(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	url := cluster.Database(t, "shop")
	table := "CREATE TABLE items (id int PRIMARY KEY)"
	if err := cluster.Exec(t.Context(), "shop", table); err != nil {
		t.Fatal(err)
	}
	sink := harness.NewReceiver(t)
	d := harness.NewDaemon(t, harness.DaemonOptions{DatabaseURL: url, Rules: fmt.Sprintf(`
source "postgres" "shop" { url = env("DATABASE_URL") }
event "item" {
  table = "public.items"
  on    = ["insert"]
  data  = row
}
sink "webhook" "s" {
  url     = %q
  events  = ["**"]
  secrets = [%q]
}
`, sink.URL, harness.Secret)})
	d.StartReady()
	for _, sql := range []string{"INSERT INTO items VALUES (1)", "DROP TABLE items", table, "INSERT INTO items VALUES (2)"} {
		if err := cluster.Exec(t.Context(), "shop", sql); err != nil {
			t.Fatal(err)
		}
	}
	sink.WaitCount(1)
	harness.Eventually(t, 25*time.Second, func() error {
		status, body, err := d.Get("/readyz")
		if err == nil && (status == 200 || !strings.Contains(body, "public.items")) {
			err = fmt.Errorf("/readyz says %d %s while changes are lost", status, body)
		}
		return err
	})
}
