# One machine with ../../cloud-init.yaml, a firewall and the record of its name. docs/deployment.md has the steps.

locals {
  # The lines of cloud-init.yaml that name this server.
  server = {
    DOMAIN      = var.domain
    WHEEL       = var.wheel
    CONSTRAINTS = var.constraints
    PING_URL    = var.ping_url
  }
  user_data = join("\n", [
    for line in split("\n", file("${path.module}/../../cloud-init.yaml")) :
    contains(keys(local.server), trimspace(split("=", line)[0]))
    ? "${split("=", line)[0]}='${local.server[trimspace(split("=", line)[0])]}'" : line
  ])

  label  = replace(var.domain, ".", "-")
  ssh_v4 = [for network in var.ssh_from : network if !strcontains(network, ":")]
  ssh_v6 = [for network in var.ssh_from : network if strcontains(network, ":")]

  addresses = {
    A    = linode_instance.server.ip_address
    AAAA = split("/", linode_instance.server.ipv6)[0]
  }
}

resource "linode_instance" "server" {
  label           = substr(local.label, 0, 64)
  region          = var.region
  type            = var.type
  image           = var.image
  authorized_keys = [for key in var.ssh_keys : chomp(key)]
  backups_enabled = var.backups
  tags            = ["issuer"]

  metadata {
    user_data = base64encode(local.user_data)
  }

  lifecycle {
    # A change of one of these would replace the machine and its data. Upgrade it with issuer-setup instead.
    ignore_changes = [metadata, image, authorized_keys]

    precondition {
      condition     = alltrue([for name, value in local.server : strcontains(local.user_data, " ${name}='${value}'\n")])
      error_message = "cloud-init.yaml lacks a line that main.tf fills in."
    }
  }
}

resource "linode_firewall" "server" {
  label           = substr(local.label, 0, 32)
  tags            = ["issuer"]
  linodes         = [linode_instance.server.id]
  inbound_policy  = "DROP"
  outbound_policy = "ACCEPT"

  inbound {
    label    = "web"
    action   = "ACCEPT"
    protocol = "TCP"
    ports    = "80, 443"
    ipv4     = ["0.0.0.0/0"]
    ipv6     = ["::/0"]
  }

  inbound {
    label    = "http3"
    action   = "ACCEPT"
    protocol = "UDP"
    ports    = "443"
    ipv4     = ["0.0.0.0/0"]
    ipv6     = ["::/0"]
  }

  inbound {
    label    = "icmp"
    action   = "ACCEPT"
    protocol = "ICMP"
    ipv4     = ["0.0.0.0/0"]
    ipv6     = ["::/0"]
  }

  dynamic "inbound" {
    for_each = length(var.ssh_from) > 0 ? [1] : []

    content {
      label    = "ssh"
      action   = "ACCEPT"
      protocol = "TCP"
      ports    = "22"
      ipv4     = local.ssh_v4
      ipv6     = local.ssh_v6
    }
  }
}

data "linode_domain" "zone" {
  count  = var.zone == null ? 0 : 1
  domain = var.zone
}

resource "linode_domain_record" "server" {
  for_each = { for type, address in local.addresses : type => address if var.zone != null }

  domain_id   = data.linode_domain.zone[0].id
  name        = trimsuffix(trimsuffix(var.domain, var.zone), ".")
  record_type = each.key
  target      = each.value
  ttl_sec     = 300

  lifecycle {
    precondition {
      condition     = endswith(".${var.domain}", ".${var.zone}")
      error_message = "The domain must be in the zone."
    }
  }
}
