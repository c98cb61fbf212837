#!/bin/busybox sh
# Loads each module of /vm/modules, and says what came of it as cargo's test harness does.
passed=0 failed=0
for module in $(cat /vm/modules); do
	if modprobe "$module"; then passed=$((passed + 1)); else
		failed=$((failed + 1))
		echo "test $module ... FAILED"
	fi
done
echo "test result: modules loaded. $passed passed; $failed failed"
[ $failed = 0 ]
