#!/usr/bin/env bash
# Runs the tests of what happens to slots, notifications, disks and servers (TestSlots, TestNotify,
# TestFailover, TestRestore, TestDisk): failover, restore, lost slots, poolers. Most of their time they
# wait for timers of Rowhook and of PostgreSQL, so more of them run at once than there are processors.
# Arguments go to go test, such as -v or -run 'TestFailover'.
set -euo pipefail
cd "$(dirname "$0")/.."
exec go test -count=1 -timeout 10m -parallel 6 -run '^Test(Slots|Notify|Failover|Restore|Disk)_' "$@" ./integration
