output "url" {
  description = "Where the service answers, minutes after the name points to the machine."
  value       = "https://${var.domain}"
}

output "ipv4" {
  description = "Address for an A record, where DNS is elsewhere."
  value       = local.addresses.A
}

output "ipv6" {
  description = "Address for an AAAA record."
  value       = local.addresses.AAAA
}

output "ssh" {
  description = "How to enter the machine from one of the networks of ssh_from."
  value       = "ssh root@${local.addresses.A}"
}
