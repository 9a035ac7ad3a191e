# The guest's own script, run by its init once the shared folder is mounted: network, initiator,
# multipath, then the agent that takes the lab's orders until it says exit.
set -x
for module in iscsi_tcp dm_multipath dm_round_robin dm_service_time scsi_dh_alua; do modprobe $module; done
/lib/systemd/systemd-udevd --daemon
udevadm trigger
udevadm settle -t 20
ip link set lo up
# First card: host plane; second: the log network. Told apart by the last byte of their address.
for card in /sys/class/net/*; do
  name=${card##*/}
  case $(cat "$card/address") in
    *:01) ip addr add 10.77.0.100/24 dev "$name" ;;
    *:03) ip addr add 10.77.3.100/24 dev "$name" ;;
    *) continue ;;
  esac
  ip link set "$name" up
done
echo "InitiatorName=iqn.2026-11.lab.twinlun:guest" > /etc/iscsi/initiatorname.iscsi
cp /job/iscsid.conf /etc/iscsi/iscsid.conf
cp /job/multipath.conf /etc/multipath.conf
iscsid
multipathd
/job/twinlun-guest "$(cat /job/agent)"
